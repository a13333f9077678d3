"""Whether a card has kernels for a format: what vLLM says of itself, by NVIDIA's compute capability.

Documentation of vLLM (docs/features/quantization/llm_compressor: int4.md, int8_w8a8.md, fp8.md) and of LLM Compressor
(examples/quantization_w4a4_fp4), read on 2026-11-29, and vLLM's own code where it says otherwise. A format that they do
not speak of is not known, never refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from planner.compress.schema import CardSupport, Support
from planner.formats.compressed_schemes import storage_of
from planner.recipe.specs import QuantArgs, Scheme, Strategy

_ORDER: tuple[Support, ...] = ("yes", "weights alone", "not known", "no")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Kernels for one format."""

    format: str
    least: int
    """Compute capability from which on they are there, 89 for 8.9."""
    below: int | None = None
    """And from which on they are not there again."""
    weights_alone: int | None = None
    """From here on they take the weights, and activations stay as they are: it runs, without what W8A8 gains."""
    source: str

    def on(self, sm: int) -> Support:
        """What a card of this compute capability has."""
        if sm >= self.least and (self.below is None or sm < self.below):
            return "yes"
        is_half = self.weights_alone is not None and sm >= self.weights_alone
        return "weights alone" if is_half else "no"


# vLLM's page int4.md asks for more than 8.0. get_min_capability has been 75 since pull requests 29732 (tried on a T4)
# and 31000, and the table of docs/features/quantization/README.md has Marlin on Turing.
INT4 = Kernels(
    format="integer weights (W4A16, W8A16)",
    least=75,
    source="vLLM compressed_tensors_wNa16.py: Turing (7.5) and newer",
)
INT8 = Kernels(
    format="INT8 W8A8", least=75, below=100, source="vLLM int8_w8a8.md: Turing to Hopper, not on Blackwell (10.0)"
)
FP8 = Kernels(
    format="FP8 W8A8",
    least=89,
    weights_alone=75,
    source="vLLM fp8.md: 8.9 (Ada); from 7.5 (Turing) on as W8A16 by Marlin",
)
NVFP4A16 = Kernels(format="NVFP4A16", least=75, source="vLLM compressed_tensors_w4a16_nvfp4.py: 7.5")
NVFP4 = Kernels(
    format="NVFP4",
    least=100,
    weights_alone=75,
    source="LLM Compressor quantization_w4a4_fp4: below 10.0 weights alone; vLLM compressed_tensors_w4a4_nvfp4.py: 7.5",
)


def card_support(schemes: Iterable[Scheme], sm: int | None) -> CardSupport | None:
    """What vLLM has for these schemes on a card of this compute capability: the worst of them.

    None where nothing is quantized, or nobody said which card.
    """
    found = [(_kernels(scheme), scheme) for scheme in dict.fromkeys(schemes) if storage_of(scheme) != "dense"]
    if sm is None or not found:
        return None
    answers = [(kernels.on(sm) if kernels else "not known", kernels, scheme) for kernels, scheme in found]
    worst, kernels, scheme = max(answers, key=lambda answer: _ORDER.index(answer[0]))
    if kernels is None:
        return CardSupport(support=worst, format=storage_of(scheme), source="nothing that was read speaks of it")
    return CardSupport(support=worst, format=kernels.format, source=kernels.source)


def _kernels(scheme: Scheme) -> Kernels | None:
    """compressed_tensors.py `_get_scheme_from_parts` asks in this way, by `_is_wNa16_group_channel`,
    `_is_static_tensor_w8a8` and `_is_dynamic_token_w8a8`, `_is_fp8_w8a8`, `_is_nvfp4_format`."""
    weights, inputs = scheme.weights, scheme.input_activations
    if weights is None or scheme.output_activations is not None:
        return None
    match storage_of(scheme):
        case "pack-quantized" if weights.num_bits in (4, 8) and weights.strategy in ("group", "channel"):
            return INT4
        case "int-quantized" if _is_plain(weights, "tensor", "channel") and _is_taken(inputs, "int"):
            return INT8
        case "float-quantized" if _is_plain(weights, "tensor", "channel", "block") and _is_taken(inputs, "float"):
            return FP8
        case "nvfp4-pack-quantized":
            return NVFP4A16 if inputs is None else NVFP4
        case _:
            return None


def _is_plain(weights: QuantArgs, *strategies: Strategy) -> bool:
    """8 bits, symmetric, with a scale for so much of a weight."""
    return weights.num_bits == 8 and weights.symmetric and weights.strategy in strategies


def _is_taken(inputs: QuantArgs | None, kind: str) -> bool:
    """Activations of 8 bits and this type, with scales that are taken while serving, or with one that was kept."""
    if inputs is None or inputs.num_bits != 8 or inputs.type != kind:
        return False
    if inputs.dynamic:
        return kind == "float" or inputs.strategy == "token"
    return inputs.strategy == "tensor" and (kind == "int" or inputs.symmetric)
