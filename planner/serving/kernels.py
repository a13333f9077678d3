"""Whether a card has kernels for a format: what vLLM documents, by NVIDIA's compute capability.

Documentation of vLLM (docs/features/quantization/llm_compressor: int4.md, int8_w8a8.md, fp8.md) and of LLM Compressor
(examples/quantization_w4a4_fp4), read on 2026-11-29, and vLLM's own code where it says otherwise. A format that they do
not speak of is not known, never refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from planner.compress.schema import CardSupport, Support
from planner.formats.compressed_schemes import storage_of
from planner.recipe.specs import Scheme

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
        return CardSupport(support=worst, format=storage_of(scheme), source="neither documentation speaks of it")
    return CardSupport(support=worst, format=kernels.format, source=kernels.source)


def _kernels(scheme: Scheme) -> Kernels | None:
    weights = scheme.weights
    match storage_of(scheme):
        case "pack-quantized" if weights is not None and weights.num_bits in (4, 8):
            return INT4
        case "int-quantized" if weights is not None and weights.num_bits == 8:
            return INT8
        case "float-quantized":
            return FP8
        case "nvfp4-pack-quantized":
            return NVFP4
        case _:
            return None
