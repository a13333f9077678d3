"""A model's tensors as llama.cpp's converter writes them: name, shape, and what they are kept in.

Source: llama.cpp conversion/base.py `ModelBase.prepare_tensors`, `MmprojModel.tensor_force_quant`, the model
classes' `modify_tensors`, and gguf-py/gguf/tensor_mapping.py, at 0c1e57098bba43ac29e6e3b677cdceebdd22334f.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from planner.formats.gguf.architectures import architecture
from planner.formats.gguf.mixture import Tensor
from planner.formats.gguf.roles import role_name
from planner.formats.gguf.rules import Hyper
from planner.formats.served_model import ServedModel
from planner.formats.tensors import ANY_EXPERT, Weight
from planner.models.kinds import BESIDE_TEXT

# Checkpoints that hold their experts in MXFP4: the converter copies the blocks (conversion/gpt_oss.py).
MXFP4_EXPERTS = {"gpt_oss"}

# conversion/base.py prepare_tensors: matrices that stay in single precision, as endings of GGUF names.
_SINGLE = re.compile(
    r"_norm\.weight$|ffn_gate_inp(_shexp)?\.weight$|position_embd\.weight$|token_types\.weight$|ssm_conv1d(_[qkv])?\.weight$"
    r"|shortconv\.conv\.weight$|time_mix_(first|w1|w2|decay_w1|decay_w2|lerp_fused)\.weight$"
    r"|altup_(correct|predict)_coef\.weight$|indexer\.proj\.weight$"
)
_SINGLE_VISION = re.compile(r"norm|ln_|pos(ition(al)?)?_emb|class_emb|cls_")

Find = Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One GGUF tensor and the weight it comes from."""

    weight: Weight
    tensor: Tensor
    vision: bool = False
    """In the file of the vision part (mmproj), which is not quantized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufModel:
    """What the converter makes of a model."""

    hyper: Hyper
    written: tuple[Written, ...]
    notes: tuple[str, ...]

    @property
    def text(self) -> tuple[Tensor, ...]:
        """Tensors of the model file."""
        return tuple(w.tensor for w in self.written if not w.vision)


def gguf_model(served: ServedModel, *, half: str = "F16") -> GgufModel:
    """The tensors of a model as converted, `half` being the type of matrices (F16, BF16; F32 for single)."""
    arch = architecture(served.model_type)
    find = _finder(arch, served.layers)
    written = tuple(w for weight in served.weights for w in _write(weight, find, served, half))
    unknown = [weight.name for weight in served.weights if _unknown(weight, find)]
    return GgufModel(hyper=_hyper(served, arch), written=written, notes=(*_notes(served, arch, unknown),))


def _hyper(served: ServedModel, arch: str | None) -> Hyper:
    return Hyper(
        arch=arch or served.model_type,
        layers=served.layers,
        heads=served.attention_heads,
        kv_heads=served.kv_heads or served.attention_heads,
        experts=served.experts,
    )


def _notes(served: ServedModel, arch: str | None, unknown: list[str]) -> Iterator[str]:
    if arch is None:
        yield f"llama.cpp's converter does not know {served.model_type}: tensors are taken for what their names say."
    elif unknown:
        yield f"{len(unknown)} tensors have no GGUF name in {arch} ({unknown[0]}, ...): taken for what they are called."
    if served.model_type in MXFP4_EXPERTS:
        yield "Experts stay in MXFP4 as in the checkpoint and in published files: llama-quantize refuses to requantize."


def _unknown(weight: Weight, find: Find) -> bool:
    """A matrix without a GGUF name: its type is a guess. Vectors are kept in F32 whatever they are called."""
    is_matrix = len(weight.shape) > 1 and weight.unit not in BESIDE_TEXT
    return is_matrix and find(weight.name) is None


@cache
def _finder(arch: str | None, layers: int) -> Find:
    """Looks up the GGUF name of a parameter; the table of an architecture is made once."""
    if arch is None:
        return lambda _: None
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[arch], layers)

    @cache
    def find(name: str) -> str | None:
        plain = name.replace("language_model.", "", 1).replace(ANY_EXPERT, ".experts.")
        names = (table.get_name(key=key, try_suffixes=(".weight", ".bias")) for key in (plain, f"model.{plain}"))
        return next((found for found in names if found), None)

    return find


def _write(weight: Weight, find: Find, served: ServedModel, half: str) -> Iterator[Written]:
    if weight.unit in BESIDE_TEXT:
        kind = "F32" if len(weight.shape) == 1 or _SINGLE_VISION.search(weight.name) else _vision_half(half)
        tensor = Tensor(name=weight.name, shape=weight.shape, type=kind)
        yield Written(weight=weight, tensor=tensor, vision=True)
        return
    for name, shape in _renamed(weight, find, served):
        kind = _converted_type(name, shape, weight, served, half)
        yield Written(weight=weight, tensor=Tensor(name=name, shape=shape, type=kind))


def _vision_half(half: str) -> str:
    return "F32" if half == "F32" else "F16"


def _renamed(weight: Weight, find: Find, served: ServedModel) -> Iterator[tuple[str, tuple[int, ...]]]:
    """GGUF name and shape; the latent's up-projection becomes two tensors."""
    name = find(weight.name) or role_name(weight)
    shape = weight.shape[::-1] if "Conv1D" in weight.classes else weight.shape  # stored transposed (GPT-2)
    if weight.is_expert or weight.copies > 1:
        yield name, (weight.copies, *shape)
    elif _is_split(weight, find):
        yield from _split_latent(weight, served)
    else:
        yield name, shape


def _is_split(weight: Weight, find: Find) -> bool:
    """Whether it is the latent's up-projection, in an architecture that keeps its keys and values apart."""
    head, found, tail = weight.name.rpartition("kv_b_proj")
    return bool(found) and find(f"{head}k_b_proj{tail}") is not None


def _split_latent(weight: Weight, served: ServedModel) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Keys transposed, values as they are, per head (conversion/deepseek.py `DeepseekV2Model.modify_tensors`)."""
    heads, (rows, rank) = served.attention_heads, weight.shape
    outputs = weight.name.replace("kv_b_proj", "o_proj")
    values = next(w.shape[1] for w in served.weights if w.name == outputs) // heads
    keys = rows // heads - values
    yield f"blk.{weight.layer}.attn_k_b.weight", (heads, rank, keys)
    yield f"blk.{weight.layer}.attn_v_b.weight", (heads, values, rank)


def _converted_type(name: str, shape: tuple[int, ...], weight: Weight, served: ServedModel, half: str) -> str:
    if len(shape) == 1 or not name.endswith(".weight") or _SINGLE.search(name):
        return "F32"
    if weight.is_expert and served.model_type in MXFP4_EXPERTS:
        return "MXFP4"
    return half
