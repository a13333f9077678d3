"""What saving brings onto the GPU: both embeddings, to see whether they are one.

transformers/compression/compressed_tensors_utils.py `save_pretrained_wrapper` calls `_retie_embeddings` for every model
with an input and an output embedding. It reads their tensors, which onloads them, and holds all until it returns.
"""

from dataclasses import dataclass

from planner.compress.context import Context, Frame
from planner.compress.program import Program
from planner.cuda.operands import Operand
from planner.cuda.reductions import buffer_sizes
from planner.cuda.requests import temporaries
from planner.recipe.dtypes import itemsize
from planner.recipe.qparams import weight_qparam_bytes
from planner.recipe.specs import Scheme
from planner.recipe.targets import LinearModule
from planner.units import INT32


@dataclass(frozen=True, slots=True)
class _End:
    """The table or the head as it is saved."""

    name: str
    sizes: tuple[int, ...]
    """Of its tensors, the weight first; compressing drops the zero points of symmetric schemes."""
    elements: int
    """Of the weight's tensor."""
    scheme: Scheme | None


def retie_embeddings(context: Context, program: Program) -> None:
    """compressed_tensors_utils.py `_retie_embeddings`: `_named_tensors` of both, then torch.equal one by one."""
    if context.device == "cpu" or not program.embedding_bytes or not program.head_bytes:
        return
    targeted = program.with_schemes
    ends = [
        _end(name, nbytes, targeted.get(name.removesuffix(".weight")), context.job.dtype)
        for name, nbytes in ((program.embedding, program.embedding_bytes), (program.head, program.head_bytes))
    ]
    with context.frame("weights", "saved") as frame:
        if not context.weights_on_gpu:
            for end in ends:
                for number, nbytes in enumerate(end.sizes):
                    frame.bind(f"{end.name} {number}", context.copied_to_gpu(end.name, nbytes))
        if ends[0].scheme == ends[1].scheme and ends[0].elements == ends[1].elements:
            _equal(frame, ends[0].elements)


def _end(name: str, nbytes: int, target: tuple[str, LinearModule] | None, dtype: str) -> _End:
    module = target[1] if target is not None else None
    args = module.scheme.weights if module is not None and module.scheme is not None else None
    if module is None or args is None:
        return _End(name, (nbytes,), nbytes // itemsize(dtype), None)
    weight = module.rows * module.columns * args.num_bits // 8
    # narrow integers are packed into int32 (compressors/pack_quantized)
    elements = weight // INT32 if args.type == "int" and args.num_bits < 8 else weight
    kept = {key: size for key, size in weight_qparam_bytes(module).items() if key != "zero_point" or not args.symmetric}
    return _End(name, (weight, *kept.values()), elements, module.scheme)


def _equal(frame: Frame, elements: int) -> None:
    """native/cuda/Equal.cpp cuda_equal: eq(self, src).all(), a byte for each element."""
    if frame.build is not None:
        buffers = buffer_sizes(Operand((elements,), (1,), "bool"), (0,), 1, frame.build)
        frame.operator(temporaries(elements, 1, *buffers), "comparison")
