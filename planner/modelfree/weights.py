"""One weight quantized without its model, allocation by allocation, as the library's functions take and free.

llmcompressor/entrypoints/model_free/lifecycle.py makes a Linear of the weight and observes it, compressed_tensors
compressors/base.py compress_module replaces its tensors. Three ways lead through the same functions:

- `kernel`: Triton's, on a GPU (forward_helpers.py _quantize_triton), except 8-bit floats before Hopper;
- `eager`: PyTorch's own operators, on the CPU, and where the kernel does not run;
- `meta`: the library's rehearsal on tensors without data, from which it estimates what a file takes; packing is
  left out of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from planner.compress.context import Context, Frame
from planner.compress.grid_search import Observed
from planner.compress.holdings import Owner
from planner.compress.observers import observed_range
from planner.compress.qparams import calculate_qparams
from planner.formats.compressed_schemes import Storage, module_tensors, storage_of
from planner.recipe.dtypes import zero_point_itemsize
from planner.recipe.qparams import scale_count
from planner.recipe.specs import QuantArgs, Scheme
from planner.timeline import Handle
from planner.units import INT32, INT64

Way = Literal["kernel", "eager", "meta"]

COPY, QPARAMS, RESULT, TEMPORARY = "weight copies", "scales", "compressed", "temporaries"
"""Kinds of what one weight holds."""
WORDS = 32
"""pack_quantized/helpers.py pack_to_int32: values that are packed together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A weight that a scheme quantizes."""

    rows: int
    columns: int
    itemsize: int
    scheme: Scheme

    @property
    def args(self) -> QuantArgs:
        """How it is quantized."""
        assert self.scheme.weights is not None
        return self.scheme.weights

    @property
    def bytes(self) -> int:
        return self.rows * self.columns * self.itemsize

    @property
    def storage(self) -> Storage:
        """How it is stored."""
        return storage_of(self.scheme)

    @property
    def padded(self) -> int:
        """Elements of whole blocks: helpers.py maybe_pad_tensor_for_block_quant."""
        if self.args.strategy != "block":
            return self.rows * self.columns
        height, width = self.args.block_structure or (128, 128)
        return -(-self.rows // height) * height * -(-self.columns // width) * width

    @property
    def is_fused(self) -> bool:
        """It has a global scale, which fused weights share."""
        return self.args.strategy == "tensor_group"

    def refusal(self) -> str | None:
        """Why the library stops at it, in words; None where it does not."""
        columns, args = self.columns, self.args
        group = args.group_size
        if args.strategy in ("group", "tensor_group") and group and columns % group:
            return f"its {columns} columns are not whole groups of {group}"
        if args.strategy == "block" and columns % (args.block_structure or (128, 128))[1]:
            # naive_quantized/base.py cuts the padding off by a view, and safetensors saves no such tensor
            return f"its {columns} columns are not whole blocks, and what is cut off of them cannot be saved"
        if self.storage == "pack-quantized" and -(-columns // WORDS) * args.num_bits != _words(columns, args.num_bits):
            return f"its {columns} columns do not fill up the packed words, and what is cut off of them cannot be saved"
        return None


def _words(count: int, bits: int) -> int:
    return -(-count * bits // WORDS)


class WeightWork:
    """The Linear that is made of one weight, from its initialization until it is compressed."""

    def __init__(self, context: Context, matrix: Matrix, way: Way) -> None:
        self.context, self.matrix, self.way = context, matrix, way
        self.frame = context.frame(TEMPORARY, Owner("weight"))
        self._statistics: list[Handle] = []

    # ------------------------------------------------------------------ before
    def initialize(self) -> None:
        """lifecycle.py validate_weight_for_quantization, initialize_quantized_linear."""
        frame, matrix, args = self.frame, self.matrix, self.matrix.args
        with self._flattened(frame):
            pass
        frame.assign("weight", matrix.bytes, COPY)
        if args.strategy == "tensor_group":
            frame.assign("weight_global_scale", 4, QPARAMS)
        count = self._count()
        frame.assign("weight_scale", count * matrix.itemsize, QPARAMS)
        if not args.symmetric:
            frame.assign("weight_zero_point", count * zero_point_itemsize(args), QPARAMS)

    def observe(self) -> None:
        """llmcompressor/observers/base.py Observer.forward."""
        matrix, count = self.matrix, self._count()
        with self.context.frame(TEMPORARY, Owner("observer")) as frame:
            with self._flattened(frame):
                group = matrix.padded // count
                observed = Observed(observations=1, count=count, group=group, itemsize=matrix.itemsize)
                observed_range(frame, matrix.args, observed)
            self._statistics = [frame.hand_over("min_vals"), frame.hand_over("max_vals")]

    def update(self, finished: Sequence["WeightWork"]) -> None:
        """calibration.py update_qparams; get_qparams frees the statistics of those that are `finished` with it."""
        ledger = self.context.ledger
        with self.context.frame(TEMPORARY, Owner("qparams")) as frame:
            found = calculate_qparams(frame, self._count(), self.matrix.itemsize, self.matrix.args)
        for other in finished:
            ledger.free_all(other._statistics)
            other._statistics = []
        ledger.free_all(found.handles)

    def _count(self) -> int:
        return scale_count(self.matrix.rows, self.matrix.columns, self.matrix.args)

    @contextmanager
    def _flattened(self, frame: Frame) -> Iterator[None]:
        """observers/helpers.py _flatten_weight: blocks side by side are a copy, all else is a view."""
        if self.matrix.args.strategy != "block":
            yield
            return
        size = self.matrix.padded * self.matrix.itemsize
        if size != self.matrix.bytes:
            frame.assign("padded weight", size)
        frame.assign("weight in blocks", size)
        frame.delete("padded weight")
        yield
        frame.delete("weight in blocks")

    # ------------------------------------------------------------------ compress
    def compress(self) -> None:
        """compressors/base.py compress_module: what is left in the frame afterwards is saved."""
        frame, storage = self.frame, self.matrix.storage
        match storage:
            case "pack-quantized":
                self._pack()
            case "nvfp4-pack-quantized" | "mxfp4-pack-quantized":
                self._pack_floats(storage)
            case "mxfp8-quantized":
                self._quantize(width=1, name="quantized weight")
                frame.delete("weight")
                self._exponents()
            case "dense":
                frame.move("weight", "quantized weight")
            case _:
                self._quantize(width=self._sizes()["weight"] // (self.matrix.rows * self.matrix.columns))
        frame.delete("weight")

    def results(self) -> None:
        """The module's tensors go into the dictionary of the file, and stay there until it is saved."""
        for name in self.frame.names():
            for handle in self.frame.held(name):
                self.context.ledger.relabel(handle, Owner(name))
            self.frame.hand_over(name)

    def _sizes(self) -> dict[str, int]:
        matrix = self.matrix
        return module_tensors(matrix.rows, matrix.columns, matrix.scheme, matrix.itemsize)

    def _quantize(self, width: int, name: str = "quantized weight", kind: str = RESULT) -> None:
        """lifecycle/forward.py quantize, to elements of `width` bytes; blocks are padded again."""
        frame, elements = self.frame, self.matrix.padded
        if elements != self.matrix.rows * self.matrix.columns:
            frame.assign("padded weight", elements * self.matrix.itemsize)
        if self.way == "kernel":
            with self._expanded_scale(), frame.during(elements * self.matrix.itemsize, "in the weight's type"):
                frame.assign(name, elements * width, kind)
        else:
            self._quantize_eagerly(elements, self.matrix.itemsize)
            frame.assign(name, elements * width, kind)
            frame.delete("scaled", "rounded")
        frame.delete("padded weight")

    @contextmanager
    def _expanded_scale(self) -> Iterator[None]:
        """forward_helpers.py adapt_scale_and_zp_for_triton: one scale is repeated for each row."""
        if self.matrix.args.strategy != "tensor":
            yield
            return
        with self.frame.during(self.matrix.rows * self.matrix.itemsize, "scale of each row"):
            yield

    def _quantize_eagerly(self, elements: int, itemsize: int) -> None:
        """forward_helpers.py _quantize; quant_args.py round_to_quantized_type_args: leaves `scaled` and `rounded`."""
        frame, size, is_float = self.frame, elements * itemsize, self.matrix.args.type == "float"
        frame.assign("scaled", size)
        frame.assign("clamped", size)
        if is_float and self.matrix.args.num_bits == 8:
            with frame.during(elements, "in fp8"):
                frame.assign("rounded", size)
        else:
            frame.assign("rounded", size)
        frame.delete("clamped")

    def _pack(self) -> None:
        """pack_quantized/base.py compress."""
        frame, matrix, sizes = self.frame, self.matrix, self._sizes()
        if self.way == "meta":
            frame.assign("weight_packed", sizes["weight_packed"], RESULT)
            return
        self._quantize(width=1, name="int8 weight", kind=TEMPORARY)
        self._to_int32(matrix.rows, matrix.columns, "weight_packed", sizes["weight_packed"])
        if not matrix.args.symmetric and matrix.args.strategy in ("group", "channel"):
            # packed along the rows: transposed, so that each column of zero points is a row
            groups = self._count() // matrix.rows
            self._to_int32(groups, matrix.rows, "packed zero point", sizes["weight_zero_point"])
            frame.assign("contiguous zero point", sizes["weight_zero_point"], RESULT)
            frame.delete("packed zero point")
            frame.move("contiguous zero point", "weight_zero_point")
        frame.delete("int8 weight")

    def _to_int32(self, rows: int, columns: int, name: str, size: int) -> None:
        """pack_quantized/helpers.py pack_to_int32."""
        with self.context.frame(TEMPORARY, Owner("packing")) as frame:
            wide = rows * columns * INT32
            with frame.during(wide, "as int32"):
                frame.assign("value", wide)
            padded = rows * -(-columns // WORDS) * WORDS * INT32
            if padded != wide:
                frame.assign("value", padded)
            self.frame.assign(name, padded // WORDS * self.matrix.args.num_bits, RESULT)
            if frame.build is not None:
                for bits in ("elem_i", "bit_starts", "bit_offset"):
                    frame.assign(bits, WORDS * INT32)
                frame.assign("word_idx", WORDS * INT64)
            frame.temporary(padded, "shifted")

    def _pack_floats(self, storage: Storage) -> None:
        """nvfp4/base.py compress; in the rehearsal compress_nvfp4_meta."""
        frame, elements, sizes = self.frame, self.matrix.rows * self.matrix.columns, self._sizes()
        if self.way == "kernel":
            frame.assign("quantized", elements * self.matrix.itemsize)
            frame.assign("weight_packed", sizes["weight_packed"], RESULT)
        elif self.way == "meta":
            frame.assign("weight_packed", sizes["weight_packed"], RESULT)
        else:
            self._quantize_floats_eagerly(elements)
            self._pack_floats_eagerly(elements, sizes["weight_packed"])
        if storage.startswith("mxfp"):
            self._exponents()
        else:
            frame.assign("new scale", sizes["weight_scale"], RESULT)
        frame.delete("quantized", "weight")
        frame.move("new scale", "weight_scale")

    def _quantize_floats_eagerly(self, elements: int) -> None:
        """_quantize, with a global scale in fp32 (scale / global_scale), and its result in the weight's type again."""
        frame, has_global = self.frame, self.matrix.args.strategy == "tensor_group"
        if has_global:
            frame.assign("scale / global", self._count() * 4)
        self._quantize_eagerly(elements, 4 if has_global else self.matrix.itemsize)
        frame.delete("scaled", "scale / global")
        if has_global:
            frame.assign("quantized", elements * self.matrix.itemsize)
            frame.delete("rounded")
        else:
            frame.move("rounded", "quantized")

    def _pack_floats_eagerly(self, elements: int, packed: int) -> None:
        """nvfp4/helpers.py pack_fp4_to_uint8."""
        with self.context.frame(TEMPORARY, Owner("packing")) as frame:
            with frame.during(elements, "signbit"):
                frame.assign("sign", elements)
            with frame.during(elements * self.matrix.itemsize, "x * 2"):
                frame.assign("x", elements)
            frame.assign("indices", elements)
            frame.temporary(elements, "x == 1")
            with frame.during(elements, "sign << 3"):
                frame.assign("indices", elements)
            with frame.during(packed, "indices << 4"):
                self.frame.assign("weight_packed", packed, RESULT)

    def _exponents(self) -> None:
        """mx_utils.py compress_mx_scale: logarithm, floor, int32, plus 127, and one byte of it."""
        frame, count = self.frame, self._count()
        with frame.during(count * self.matrix.itemsize, "log2"):
            frame.assign("floor", count * self.matrix.itemsize)
        with frame.during(count * INT32, "as int32"):
            frame.delete("floor")
            frame.assign("exponents", count * INT32)
        frame.assign("new scale", self._sizes()["weight_scale"], RESULT)
        frame.delete("exponents")
        if self.matrix.storage == "mxfp8-quantized":
            frame.move("new scale", "weight_scale")
