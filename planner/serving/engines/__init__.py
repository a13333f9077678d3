"""The serving engines. A new one is a file like its neighbours and a line in this table (and its name in
`fields.Engine`, which a test holds to the table)."""

from planner.errors import JobError
from planner.formats.registry import Format
from planner.hardware import Gpu
from planner.serving.engines.exllama import EXLLAMA
from planner.serving.engines.facts import EngineFacts
from planner.serving.engines.llama_cpp import LLAMA_CPP
from planner.serving.engines.vllm import VLLM
from planner.serving.schema import ServeOptions

__all__ = ["ENGINES", "EXLLAMA", "LLAMA_CPP", "VLLM", "chunk_of", "engine_of", "usual_engine"]

ENGINES: dict[str, EngineFacts] = {engine.name: engine for engine in (VLLM, LLAMA_CPP, EXLLAMA)}


def usual_engine(chosen: Format) -> EngineFacts:
    """The engine that a format is made for."""
    return next(engine for engine in ENGINES.values() if chosen.family in engine.made_for)


def engine_of(chosen: Format, options: ServeOptions) -> EngineFacts:
    """The engine asked for, or the one that the format is made for.

    Raises JobError where it cannot read the format, or serve so many sequences at the same time.
    """
    usual = usual_engine(chosen)
    engine = usual if options.engine is None else ENGINES[options.engine]
    if not engine.reads(chosen.family):
        raise JobError(f"--engine {engine.name}: it does not read {chosen.name}; {usual.name} does")
    most = engine.most_sequences
    if most is not None and options.batch > most:
        raise JobError(f"--batch {options.batch:,}: {engine.name} serves at most {most} sequences at the same time")
    return engine


def chunk_of(engine: EngineFacts, options: ServeOptions, gpu: Gpu | None) -> int:
    """Tokens of one prefill step over all sequences; 0 without a limit."""
    return engine.chunk(gpu) if options.prefill_chunk is None else options.prefill_chunk
