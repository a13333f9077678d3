"""Which layers a modifier trains, and the trace of each kind of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from planner.compress.program import Run
from planner.errors import JobError, RecipeError, UnsupportedError
from planner.job import Job
from planner.models.traces import Segment
from planner.models.tuned import OnlineRotation, TunedBlock, card_peaks, most_of_any_order
from planner.notes import Note
from planner.recipe.specs import ModuleRef
from planner.units import GIB, human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from planner.models.graph import ModelGraph


def trainable(graph: "ModelGraph") -> "Iterator[str]":
    """autoround/base.py `_is_decoding_layer`: sequential targets that are named by their class."""
    return (u.name for u in graph.units if u.is_target and u.class_name in graph.sequential_targets)


def tuned_layers(graph: "ModelGraph", runs: "Sequence[Run]", job: Job) -> dict[str, TunedBlock]:
    """Every layer that a modifier trains, by name; layers that are equal, and trained alike, are traced once.

    Raises JobError where the library stops; UnsupportedError for a second modifier that trains, and where a layer does
    not run without data.
    """
    trained: dict[str, TunedBlock] = {}
    if len(training := [run.spec for run in runs if run.spec.trains]) > 1:
        raise UnsupportedError(
            f"{training[1].where}: a second {training[1].type} in one recipe is not modelled; give one several "
            "config_groups, or plan each by itself"
        )
    for run in runs:
        if not run.spec.trains:
            continue
        if job.targets_per_subgraph > 1:
            raise JobError(
                f"--targets-per-subgraph {job.targets_per_subgraph}: {run.spec.type} takes one layer at a time"
            )
        if job.pipeline in ("basic", "datafree"):
            raise JobError(
                f"--pipeline {job.pipeline}: {run.spec.type} takes one layer at a time, and this pipeline gives it the "
                "whole model; leave out --pipeline"
            )
        units = {unit.name: unit.structure for unit in graph.units}
        traces: dict[object, TunedBlock] = {}
        names = set(trainable(graph))
        for segment in graph.trace.segments:
            if segment.target not in names:
                continue
            hooked = _hooked(graph, runs, run, segment.target, job)
            key = units[segment.target], run.signature(segment.target), _passed(segment), hooked
            if key not in traces:
                traces[key] = _trace(graph, run, segment.target, job, hooked)
            trained[segment.target] = traces[key]
    return trained


def other_cards(tuned: Mapping[str, TunedBlock]) -> dict[int, int]:
    """The most that each card but the first holds while a layer is trained, in bytes; empty where there is one."""
    return {card: nbytes for card, nbytes in _most(tuned, card_peaks).items() if card}


def raced(tuned: Mapping[str, TunedBlock]) -> dict[int, int]:
    """Bytes that a card holds beyond its peak where autograd's threads come to their work in another order; cards
    without such bytes are not there."""
    usual, most = _most(tuned, card_peaks), _most(tuned, most_of_any_order)
    return {card: most[card] - usual[card] for card in usual if most[card] > usual[card]}


def _most(tuned: Mapping[str, TunedBlock], peaks_of: "Callable[[TunedBlock], Mapping[int, int]]") -> dict[int, int]:
    """The highest of all layers' peaks, card by card."""
    peaks: dict[int, int] = {}
    for block in {id(block): block for block in tuned.values()}.values():
        for card, nbytes in peaks_of(block).items():
            peaks[card] = max(nbytes, peaks.get(card, 0))
    return peaks


def second_card(peaks: Mapping[int, int], job: Job) -> int:
    """Number of the card that a plan's second GPU is: of those that layers are spread over, the fullest; 0 for none.

    Raises UnsupportedError where activations wait on one of several such cards.
    """
    if not peaks:
        return 1 if job.has_second_gpu else 0
    if job.has_second_gpu and len(peaks) > 1:
        raise UnsupportedError(
            "--offload-device gpu:1: planner does not follow it where device_ids names more than two GPUs"
        )
    return max(peaks, key=lambda card: (peaks[card], -card))


def cards_notes(
    runs: "Sequence[Run]", peaks: Mapping[int, int], second: int, more: Mapping[int, int]
) -> "Iterator[Note]":
    """What the other cards hold, where there are several. `more`: what another order of threads takes of a card."""
    if not peaks:
        return
    spec = next(run.spec for run in runs if run.spec.trains)
    each = ", ".join(f"{nbytes / GIB:.2f} GiB on GPU {card}" for card, nbytes in sorted(peaks.items()))
    many = len(spec.spreads_over)
    text = (
        f"{spec.where}: each layer is spread over {many} GPUs of this size, and beside the first one's share takes at "
        f"most {each} while it is trained. The plan's second GPU is number {second}. AutoRound deals the Linears out "
        "by the cards' size: the smallest cards are those of this deal, and on GPUs of another size it may be another. "
        f"{_races(more)}Of 15 such jobs on PyTorch's CUDA build, 12 came out as planned, within 1 % of the requested "
        "and 2 % of the reserved bytes of each step; in the other three, threads raced: one took up to 5 % more of the "
        "first GPU, two up to 7 % more of another"
    )
    yield Note(kind="estimate", text=text)


def _races(more: Mapping[int, int]) -> str:
    """How far cards may be above their figures."""
    if not more:
        return ""
    cards = " and ".join(f"{human_bytes(nbytes)} more on GPU {card}" for card, nbytes in sorted(more.items()))
    return (
        "Autograd has a thread for each GPU, which are planned as equally fast. Which of them falls behind differs "
        "from iteration to iteration: with GPU 0 far ahead of the others, or far behind, "
        f"a layer requests up to {cards}. "
    )


def _passed(segment: Segment) -> object:
    """What calibration passes to the layer: equal for layers that run alike, if their code is the same."""
    call = next((event.call for event in segment.events if event.call is not None), None)
    return None if call is None else tuple((v.name, v.dims, v.bytes) for v in call.arguments)


def _hooked(graph: "ModelGraph", runs: "Sequence[Run]", run: Run, layer: str, job: Job) -> tuple[OnlineRotation, ...]:
    """What other modifiers have hooked by then: the earlier ones, where each has its own pipeline."""
    earlier = runs[: runs.index(run)] if job.pipeline == "independent" else runs
    modules = _modules(graph, layer)
    found = [(other, rotation) for other in earlier for rotation in other.spec.online(layer, modules)]
    for other, rotation in found:
        if not rotation.module and rotation.place == "input":  # auto_round compressors/utils.py block_forward
            text = f"AutoRound calls {layer} with keyword arguments: the hook on its input reads args[0] (IndexError)"
            raise RecipeError(text, other.spec.where)
    if found and job.dtype == "float16":  # auto_round context/model.py `_set_amp_dtype`: self.model.to(bfloat16)
        raise UnsupportedError(
            f"{found[0][0].spec.where}: AutoRound casts layers of --dtype float16 to bfloat16, and the matrices of the "
            "transforms in them with their weights, which planner does not model; leave out --dtype float16"
        )
    return tuple(rotation for _, rotation in found)


def _modules(graph: "ModelGraph", layer: str) -> list[ModuleRef]:
    unit = next(unit for unit in graph.units if unit.name == layer)
    parts = graph.structures[unit.structure].modules
    return [m.ref_in(unit.name) for m in parts]


def _trace(graph: "ModelGraph", run: Run, layer: str, job: Job, hooked: tuple[OnlineRotation, ...]) -> TunedBlock:
    if graph.tune is None:
        raise UnsupportedError(
            f"{run.spec.type} trains layers, whose code a graph does not have: name its model instead"
        )
    targets = run.of(layer)
    schemes = {m.name: m.scheme for m in targets.named()} if targets else {}
    try:
        request = run.spec.tuning(layer, _modules(graph, layer), schemes, job.rank_samples, job.batch_size)
        spread = request.spread and replace(request.spread, card_bytes=job.gpu_memory_bytes)
        return graph.tune(replace(request, rotations=hooked, spread=spread, has_ranks=job.ranks > 1))
    except UnsupportedError as error:
        raise UnsupportedError(f"{layer}: {error}") from error
