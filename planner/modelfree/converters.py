"""Converters that run before quantizing: compressed_tensors entrypoints/convert/converters. Each is a record that says
what a tensor is loaded with, and what becomes of the tensors of a file."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.errors import JobError, UnsupportedError
from planner.formats.compressed_schemes import Storage, module_tensors, storage_of
from planner.hints import did_you_mean, shorten
from planner.modelfree.checkpoint import TORCH_NAMES, split_name
from planner.recipe.matching import Patterns
from planner.recipe.schemes import QuantizationFields, resolve_groups
from planner.recipe.specs import ModuleRef, Scheme
from planner.recipe.targets import LinearModule
from planner.sizing.saved import WIDTHS, SavedTensor, compressed_tensors

NVFP4_GROUP = 16
EMBEDDINGS = ("embed_tokens", "embeddings", "word_embeddings", "wte")
RESULT, TEMPORARY = "converted", "temporaries"
TYPES = {name: kind for kind, name in TORCH_NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """One step of a converter: `made` takes the place of the tensors that are `gone`."""

    gone: tuple[str, ...]
    made: tuple[SavedTensor, ...]
    work: "Dequantizing | None" = None
    """What making it takes; None where tensors are only called otherwise."""


@dataclass(frozen=True, slots=True)
class Dequantizing:
    """A weight of so many elements that becomes floats again, and how. Its allocations are `play`."""

    how: Literal["fp8-block", "plain", "pack-quantized", "nvfp4"]
    elements: int
    padded: int
    """Elements of whole blocks."""
    itemsize: int
    """Bytes of an element of the result."""
    source_itemsize: int
    """And of the scales, which are the type that it is computed in."""

    def play(self, context: Context) -> None:
        """Take and give back; the result stays."""
        with context.frame(TEMPORARY, Owner("converting")) as frame:
            if self.how == "fp8-block":
                # fp8block_dequantizer.py _create_dequantized_weight
                if self.padded != self.elements:
                    frame.assign("padded weight", self.padded)
                frame.assign("product", 4 * self.padded)
                with frame.during(4 * self.padded, "in fp32"):
                    pass
                frame.assign("result", self.padded * self.itemsize, RESULT)
            else:
                self._decompress(frame)
            frame.hand_over("result")

    def _decompress(self, frame: Any) -> None:
        """compressors' `decompress`: numbers, times scales, in the scales' type; then in the type that is asked for."""
        count, wide = self.elements, self.elements * self.source_itemsize
        if self.how == "pack-quantized":  # helpers.py unpack_from_int32
            with frame.during(4 * count, "shifted"):
                frame.assign("output", 4 * count)
            with frame.during(4 * count, "less offset"):
                frame.assign("numbers", count)
            frame.delete("output")
        elif self.how == "nvfp4":  # helpers.py unpack_fp4_from_uint8
            frame.assign("combined", count)
            frame.assign("signs", count)
            frame.assign("abs_vals", 8 * count)
            with frame.during(4 * count, "magnitudes"), frame.during(4 * count, "-1 or 1"):
                frame.assign("values", 4 * count)
            frame.assign("numbers", count * 2)
            frame.delete("values", "abs_vals", "signs", "combined")
        if self.how != "nvfp4":
            with frame.during(wide, "in the scales' type"):
                frame.assign("result", wide, RESULT)
        else:
            with frame.during(4 * count, "product"):
                frame.assign("result", wide, RESULT)
        if self.itemsize != self.source_itemsize:
            frame.assign("result", count * self.itemsize, RESULT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConverterSpec:
    """What every converter answers."""

    type: ClassVar[str]
    """Its class in compressed-tensors."""
    targets: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    dtype: str = "BF16"
    """Type of what is dequantized, as safetensors spells it."""

    @property
    def merges(self) -> bool:
        """It leaves quantized modules, so that the result has several formats."""
        return False

    @abstractmethod
    def dependencies(self, name: str) -> tuple[str, ...]:
        """Names of the tensors without which this one cannot be converted."""

    @abstractmethod
    def conversions(self, tensors: Mapping[str, SavedTensor]) -> Iterator[Conversion]:
        """What it does with the tensors of a file, in order."""

    @abstractmethod
    def parts(self, weight: SavedTensor, module: str) -> tuple[SavedTensor, ...]:
        """The tensors of a module whose plain weight this is, as they would have to be for this converter."""

    def quantized(self, tensors: Iterable[SavedTensor]) -> Iterator[SavedTensor]:
        """A plain checkpoint as it would have to be for this converter."""
        for tensor in tensors:
            module, parameter = split_name(tensor.name)
            if parameter == "weight" and len(tensor.shape) == 2:
                yield from self.parts(tensor, module)
            else:
                yield tensor

    def _is_named(self, module: str) -> bool:
        """get_dependencies: a target by name, so that no target means no module, and `Linear` is a name."""
        ref = ModuleRef(module, ())
        return Patterns(self.targets).first(ref) is not None and Patterns(self.ignore).first(ref) is None

    def _takes(self, module: str) -> bool:
        """match.py match_quantizable_tensors: no target means every module."""
        ref = ModuleRef(module, ())
        if module.endswith("norm") or Patterns(self.ignore).first(ref) is not None:
            return False
        return not self.targets or "Linear" in self.targets or Patterns(self.targets).first(ref) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8BlockDequantizer(ConverterSpec):
    """Weights in blocks of 8-bit floats with `weight_scale_inv`, as DeepSeek publishes them, become plain ones."""

    type: ClassVar[str] = "FP8BlockDequantizer"
    block: tuple[int, int] = (128, 128)

    def dependencies(self, name: str) -> tuple[str, ...]:
        """The scales of a targeted weight."""
        module, parameter = split_name(name)
        return (f"{module}.weight_scale_inv",) if parameter == "weight" and self._is_named(module) else ()

    def conversions(self, tensors: Mapping[str, SavedTensor]) -> Iterator[Conversion]:
        """Each targeted weight. Raises JobError where its scales are not there."""
        for name, tensor in tensors.items():
            module, parameter = split_name(name)
            if parameter != "weight" or not self._takes(module):
                continue
            scales = f"{module}.weight_scale_inv"
            if scales not in tensors:
                raise JobError(
                    f"{name} has no weight_scale_inv: {self.type} stops there; name targets or ignores for it"
                )
            rows, columns = tensor.shape
            high, wide = self.block
            padded = -(-rows // high) * high * -(-columns // wide) * wide
            work = Dequantizing("fp8-block", rows * columns, padded, WIDTHS[self.dtype], 4)
            yield Conversion(gone=(name, scales), made=(tensor._replace(type=self.dtype),), work=work)

    def parts(self, weight: SavedTensor, module: str) -> tuple[SavedTensor, ...]:
        """A weight of 8 bits and the scales of its blocks."""
        if not self._takes(module):
            return (weight,)
        blocks = tuple(-(-side // block) for side, block in zip(weight.shape, self.block, strict=True))
        return weight._replace(type="F8_E4M3"), SavedTensor(f"{module}.weight_scale_inv", "F32", blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptNvfp4(ConverterSpec):
    """Tensors of NVIDIA's Model Optimizer in NVFP4 get compressed-tensors' names; weights stay as they are."""

    type: ClassVar[str] = "ModelOptNvfp4Converter"

    @property
    def merges(self) -> bool:
        return True

    def dependencies(self, name: str) -> tuple[str, ...]:
        """All scales of a targeted weight."""
        module, parameter = split_name(name)
        if parameter != "weight" or not self._is_named(module):
            return ()
        return tuple(f"{module}.{scale}" for scale in ("input_scale", "weight_scale", "weight_scale_2"))

    def conversions(self, tensors: Mapping[str, SavedTensor]) -> Iterator[Conversion]:
        """Each tensor of a targeted module that gets another name."""
        names = {
            "input_scale": "input_global_scale",
            "weight": "weight_packed",
            "weight_scale_2": "weight_global_scale",
        }
        for name, tensor in tensors.items():
            module, parameter = split_name(name)
            if parameter in names and self._takes(module):
                yield Conversion(gone=(name,), made=(tensor._replace(name=f"{module}.{names[parameter]}"),))

    def parts(self, weight: SavedTensor, module: str) -> tuple[SavedTensor, ...]:
        """Two numbers in a byte, a scale in 8 bits for each 16 of them, and two in fp32 for all."""
        rows, columns = weight.shape
        if not self._takes(module) or columns % NVFP4_GROUP:
            return (weight,)
        return (
            weight._replace(type="U8", shape=(rows, columns // 2)),
            SavedTensor(f"{module}.weight_scale", "F8_E4M3", (rows, columns // NVFP4_GROUP)),
            *(SavedTensor(f"{module}.{name}", "F32", ()) for name in ("weight_scale_2", "input_scale")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CtDequantizer(ConverterSpec):
    """A checkpoint in compressed-tensors' own formats becomes a plain one; `groups` are those of its config.json."""

    type: ClassVar[str] = "CompressedTensorsDequantizer"
    groups: tuple[Scheme, ...] = ()

    def dependencies(self, name: str) -> tuple[str, ...]:
        """The other tensors of a module whose weight this is."""
        module, parameter = split_name(name)
        ref = ModuleRef(module, ())
        if Patterns(self.ignore).first(ref) is not None:
            return ()
        for group in self.groups:
            if "Linear" in group.targets or Patterns(group.targets).first(ref) is not None:
                first, *others = self._names(group)
                return tuple(f"{module}.{other}" for other in others) if parameter == first else ()
        return ()

    def conversions(self, tensors: Mapping[str, SavedTensor]) -> Iterator[Conversion]:
        """Each compressed module. Raises JobError where one of its tensors is not there."""
        for group in self.groups:
            first, *others = self._names(group)
            for name, tensor in tensors.items():
                module, parameter = split_name(name)
                if parameter != first or not replace(self, targets=group.targets)._takes(module):
                    continue
                parts = [name, *(f"{module}.{other}" for other in others)]
                if missing := [part for part in parts if part not in tensors]:
                    raise JobError(f"the checkpoint has no {missing[0]}: {self.type} stops there")
                yield self._conversion(tensor, group, module, tuple(parts), tensors)

    def parts(self, weight: SavedTensor, module: str) -> tuple[SavedTensor, ...]:
        """What its compressor saves of the first group that takes the module; embeddings are no Linear."""
        if module.rpartition(".")[2] in EMBEDDINGS:
            return (weight,)
        for group in self.groups:
            if replace(self, targets=group.targets)._takes(module):
                rows, columns = weight.shape
                width = WIDTHS[weight.type]
                linear = LinearModule(name=module, rows=rows, columns=columns, itemsize=width, scheme=group)
                saved = compressed_tensors(linear, TORCH_NAMES[weight.type])
                return tuple(tensor._replace(name=f"{module}.{tensor.name}") for tensor in saved)
        return (weight,)

    def _conversion(
        self,
        tensor: SavedTensor,
        group: Scheme,
        module: str,
        parts: tuple[str, ...],
        tensors: Mapping[str, SavedTensor],
    ) -> Conversion:
        storage, (rows, wide) = storage_of(group), tensor.shape
        columns = wide
        if storage == "pack-quantized" and group.weights is not None:
            scales = tensors[f"{module}.weight_scale"].shape[-1]
            size = group.weights.group_size
            columns = scales * size if size else wide * 32 // group.weights.num_bits
        elif storage.startswith(("nvfp4", "mxfp4")):
            columns = 2 * wide
        scale = WIDTHS[tensors[f"{module}.weight_scale"].type]
        shape = (rows, columns)
        work = Dequantizing(_HOW.get(storage, "plain"), prod(shape), prod(shape), WIDTHS[self.dtype], max(2, scale))
        made = SavedTensor(name=f"{module}.weight", type=self.dtype, shape=shape)
        return Conversion(gone=parts, made=(made,), work=work)

    def _names(self, group: Scheme) -> list[str]:
        """compression_param_names of the group's compressor, the root first."""
        names = list(module_tensors(128, 128, group))
        return sorted(names, key=lambda name: name not in ("weight", "weight_packed"))


_HOW: Mapping[Storage, Literal["plain", "pack-quantized", "nvfp4"]] = {
    "pack-quantized": "pack-quantized",
    "nvfp4-pack-quantized": "nvfp4",
    "mxfp4-pack-quantized": "nvfp4",
}
NAMES: Mapping[str, str] = {
    "fp8-block": Fp8BlockDequantizer.type,
    "modelopt-nvfp4": ModelOptNvfp4.type,
    "compressed-tensors": CtDequantizer.type,
}
"""On the command line, and the classes of the library."""
NOT_MODELLED = ("AutoAWQConverter", "MagnitudeExpertPruner")


def converter_of(
    given: Any,
    targets: Iterable[str] = (),
    ignore: Iterable[str] = (),
    config: Mapping[str, Any] | None = None,
) -> ConverterSpec | None:
    """The record of a converter: by name, or the library's own object. `config`: config.json of the checkpoint.

    Raises UnsupportedError for one that planner does not model, JobError for a name that nobody knows, and
    for targets or ignores of none.
    """
    targets, ignore = tuple(targets), tuple(ignore)
    if given is None and (targets or ignore):
        raise JobError("--converter-target and --converter-ignore say what a converter takes: name it by --converter")
    if given is None or isinstance(given, ConverterSpec):
        return given
    name = given if isinstance(given, str) else type(given).__name__
    kind = NAMES.get(name, name)
    if not isinstance(given, str):
        targets, ignore = getattr(given, "targets", ()), getattr(given, "ignore", ())
    plain: dict[str, Any] = {"targets": tuple(targets), "ignore": tuple(ignore)}
    if (dtype := TYPES.get(str(getattr(given, "dtype", "bfloat16")).removeprefix("torch."))) is not None:
        plain["dtype"] = dtype
    match kind:
        case Fp8BlockDequantizer.type:
            return Fp8BlockDequantizer(**plain, block=tuple(getattr(given, "weight_block_size", (128, 128))))
        case ModelOptNvfp4.type:
            return ModelOptNvfp4(**plain)
        case CtDequantizer.type:
            return _ct_dequantizer(given, plain, config)
    modelled = ", ".join(f"{short} ({long})" for short, long in NAMES.items())
    if kind in NOT_MODELLED or not isinstance(given, str):
        raise UnsupportedError(f"the converter {shorten(kind)} is not modelled; modelled: {modelled}")
    raise JobError(
        f"unknown converter {shorten(name)}{did_you_mean(name, (*NAMES, *NAMES.values())) or ';'} {modelled}"
    )


def _ct_dequantizer(given: Any, plain: dict[str, Any], config: Mapping[str, Any] | None) -> ConverterSpec:
    found: Any = getattr(given, "quant_config", None) or (config or {}).get("quantization_config")
    found = found.model_dump(mode="json", exclude_none=True) if isinstance(found, BaseModel) else found
    if not isinstance(found, Mapping) or "config_groups" not in found:
        raise JobError("compressed-tensors: the checkpoint's config.json has no quantization_config with config_groups")
    groups = {name: {k: v for k, v in group.items() if k != "format"} for name, group in found["config_groups"].items()}
    schemes = resolve_groups(QuantizationFields(config_groups=groups), "quantization_config")
    ignore = (*found.get("ignore", ()), *plain["ignore"])
    return CtDequantizer(**{**plain, "targets": (), "ignore": ignore}, groups=schemes)
