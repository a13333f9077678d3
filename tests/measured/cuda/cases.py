"""The jobs that the cudameter ran: every preset, every shipped recipe, and the options that move the card's memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.recipe.files import list_recipes
from planner.units import GIB
from tests.measured import autoround
from tests.measured.audio import CUDA as AUDIO_JOBS
from tests.measured.awq import CUDA as AWQ_JOBS
from tests.measured.cases import CONFIGS, QUIP_JOBS, Case, named

RUNS = Path(__file__).parent / "runs"
SHORT: dict[str, Any] = {"layers": 3, "samples": 4, "progress_bars": False}
TWO: dict[str, Any] = {**SHORT, "layers": 2}
PASSES: tuple[dict[str, Any], ...] = (
    {"offload_device": "gpu"},
    {"prefetch": True},
    {"batch_size": 4, "samples": 16},
    {"weights": "gpu", "offload_device": "gpu"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaCase(Case):
    """One job on one architecture (compute capability, two digits)."""

    sm: int = 90
    rank: int = 0
    """Which one is measured, of a job with several."""
    cards: int = 1
    """GPUs that AutoRound's `device_ids` names."""
    second: int = 0
    """The card that is measured beside the first: that of them which the plan has. 0 for none."""

    @property
    def has_second(self) -> bool:
        """A second card is measured."""
        return bool(self.second) or self.job.has_second_gpu

    @property
    def name(self) -> str:
        shown = {key: value for key, value in self.options.items() if key != "progress_bars"}
        plain = Case(model=self.model, recipe=self.recipe, options=shown).name
        plain = f"{plain}-rank{self.rank}" if self.rank else plain
        return plain if self.sm == 90 else f"{plain}-sm{self.sm}"

    @property
    def recorded(self) -> Path:
        return RUNS / f"{self.name}.json"


def cuda_cases() -> Iterator[CudaCase]:
    """Every recorded job."""
    for shipped in list_recipes():
        # reap is for mixtures of experts; of autoround, tests/measured/autoround.py says why
        if not shipped.name.startswith(("reap", "autoround")):
            yield _case("llama-3-8b", shipped.name)
    yield from _lengths()
    yield from _options()
    yield from _cards()
    yield from _presets()
    yield from _recipes()
    yield from _places()
    yield from _strategies()
    for model, recipe, options in (*AWQ_JOBS, *AUDIO_JOBS):
        yield _case(named(model), recipe, base={"progress_bars": False}, **options)
    for model, recipe, options in autoround.CUDA_JOBS:
        yield CudaCase(model=model, recipe=recipe, options={**options, "progress_bars": False})
    for model, recipe, options, rank in autoround.RANK_JOBS:
        yield CudaCase(model=model, recipe=recipe, options={**options, "progress_bars": False}, rank=rank)
    for model, recipe, options, cards, second in autoround.SPREAD_JOBS:
        given = {**options, "progress_bars": False}
        yield CudaCase(model=model, recipe=recipe, options=given, cards=cards, second=second)
    yield from _smoothed()
    yield from _pruned()
    yield from _observers()
    yield from _rotated()


def _case(model: str, recipe: str, sm: int = 90, base: dict[str, Any] = SHORT, **options: Any) -> CudaCase:
    return CudaCase(model=model, recipe=recipe, options={**base, **options}, sm=sm)


def _lengths() -> Iterator[CudaCase]:
    for seq_len, batch_size in ((512, 1), (512, 4), (4096, 1), (8192, 1), (2048, 2)):
        yield _case("llama-3-8b", "gptq_w4a16", seq_len=seq_len, batch_size=batch_size, samples=4 * batch_size)
    for recipe in ("rtn_w8a8_static", "sparsegpt_2of4"):
        yield _case("llama-3-8b", recipe, seq_len=8192)
        yield _case("llama-3-8b", recipe, seq_len=512, batch_size=4, samples=16)


def _options() -> Iterator[CudaCase]:
    for options in (
        {"targets_per_subgraph": 2, "layers": 4},
        {"propagate_error": False},
        {"prefetch": True},
        {"offload_device": "gpu"},
        {"dtype": "float16"},
        {"samples": 5, "batch_size": 2},
        {"sequential_targets": ("LlamaAttention", "LlamaMLP")},
        {"sequential_targets": ("Linear",), "layers": 2},
        {"samples": 32, "seq_len": 1024},
    ):
        yield _case("llama-3-8b", "gptq_w4a16", **options)
    yield _case("llama-3-8b", "rtn_w8a8_static", prefetch=True, propagate_error=False)
    yield _case("llama-3-8b", "rtn_w8a8_static", offload_device="gpu", batch_size=2)


def _cards() -> Iterator[CudaCase]:
    for size in (12, 16, 24, 48):
        yield _case("llama-3-8b", "gptq_w4a16", gpu_memory_bytes=size * GIB)
    for size in (24, 48):
        yield _case("mixtral-8x7b", "gptq_w4a16", base=TWO, gpu_memory_bytes=size * GIB)
        yield _case("qwen3-30b-a3b", "gptq_w4a16", base=TWO, gpu_memory_bytes=size * GIB)
    yield _case("llama-3-8b", "sparsegpt_2of4", gpu_memory_bytes=12 * GIB)
    for recipe in ("gptq_w4a16", "sparsegpt_50", "rtn_w8a8_static"):
        yield _case("llama-3-8b", recipe, sm=80)
    yield _case("qwen3-30b-a3b", "gptq_w4a16", sm=80, base=TWO, gpu_memory_bytes=24 * GIB)


def _presets() -> Iterator[CudaCase]:
    yield _case("mistral-7b", "gptq_w4a16", seq_len=8192)
    yield _case("llama-2-7b", "gptq_w4a16")
    yield _case("llama-2-13b", "sparsegpt_2of4", base=TWO)
    yield _case("llama-2-70b", "gptq_w4a16", base=TWO)
    yield _case("llama-3.3-70b", "rtn_w8a8_static", base=TWO)
    yield _case("qwen2.5-7b", "gptq_w4a16")
    yield _case("qwen2.5-vl-7b", "gptq_w4a16")
    yield _case("qwen3-0.6b", "gptq_w4a16")
    yield _case("qwen3-8b", "gptq_w8a8")
    yield _case("qwen3-32b", "sparsegpt_50", base=TWO)
    for recipe in ("gptq_w4a16", "rtn_w8a8_static", "sparsegpt_2of4", "rtn_w4a16"):
        yield _case("qwen3-30b-a3b", recipe, base=TWO)
    for recipe in ("gptq_w4a16", "rtn_w8a8_static"):
        yield _case("mixtral-8x7b", recipe, base=TWO)
    yield _case("gemma-3-27b", "gptq_w4a16", layers=7)
    yield _case("gemma-3-27b", "rtn_w8a8_static", layers=7)
    yield _case("gpt-oss-20b", "gptq_w8a8", base=TWO)
    yield _case("llama-4-scout", "rtn_w8a8_static", base=TWO)
    yield _case("command-a-vision", "rtn_w8a8_static", layers=4)
    yield _case("deepseek-r1", "gptq_w4a16")


def _places() -> Iterator[CudaCase]:
    """Weights that do not wait on the CPU, and activations that wait on a second card."""
    for recipe in ("gptq_w4a16", "sparsegpt_2of4", "rtn_w8a8_static", "rtn_w4a16", "gptq_nvfp4"):
        yield _case("llama-3-8b", recipe, weights="gpu")
    yield _case("llama-3-8b", "gptq_w4a16", weights="gpu", gpu_memory_bytes=16 * GIB)
    yield _case("llama-3-8b", "rtn_w8a8_static", weights="gpu", pipeline="basic", samples=3)
    yield _case("qwen3-0.6b", "head_w8a8", weights="gpu")
    yield _case("qwen3-30b-a3b", "gptq_w4a16", base=TWO, weights="gpu")
    for recipe in ("gptq_w4a16", "rtn_w8a8_static"):
        yield _case("llama-3-8b", recipe, offload_device="gpu:1")
    yield _case("llama-3-8b", "rtn_w8a8_static", offload_device="gpu:1", batch_size=2, samples=5)
    yield _case("llama-3-8b", "sparsegpt_2of4", offload_device="gpu:1", weights="gpu")
    yield _case("llama-3-8b", "gptq_w4a16", weights="disk")
    yield from _ranks()
    yield _case("llama-3-8b", "rtn_w4a16", weights="disk")
    yield _case("llama-3-8b", "sparsegpt_2of4", layers=4, weights="disk", ram_for_weights_bytes=3 * GIB)


def _ranks() -> Iterator[CudaCase]:
    """One rank of several, alone: `rank` says which."""
    for ranks, rank in ((2, 0), (2, 1), (4, 0), (4, 3)):
        options = {**SHORT, "ranks": ranks, "samples": 4 * ranks}
        yield CudaCase(model="llama-3-8b", recipe="gptq_w4a16", options=options, rank=rank)
    for recipe in ("rtn_w8a8_static", "rtn_w4a16", "sparsegpt_2of4", "gptq_nvfp4", "rtn_nvfp4"):
        yield _case("llama-3-8b", recipe, ranks=2, samples=8)
    yield _case("qwen3-30b-a3b", "gptq_w4a16", base=TWO, linearized=True, ranks=4, samples=16)


def _strategies() -> Iterator[CudaCase]:
    """What moves things on the GPU and leaves the result as it is, for a Llama, a Qwen3 and a mixture of experts."""
    llama = ({"sequential_targets": ("LlamaAttention", "LlamaMLP")}, {"targets_per_subgraph": 2, "layers": 4})
    for options in (*llama, *PASSES):
        yield _case("llama-3-8b", "rtn_w8a8_static", **options)
    yield _case("llama-3-8b", "rtn_w8a8_static", sequential_targets=("Linear",), layers=2)
    for options in PASSES[2:]:
        yield _case("llama-3-8b", "gptq_w4a16", **options)
    qwen = ({"sequential_targets": ("Qwen3Attention", "Qwen3MLP")}, {"targets_per_subgraph": 2, "layers": 4})
    for options in ({}, *qwen, *PASSES):
        yield _case("qwen3-8b", "gptq_w4a16", **options)
    for options in ({"sequential_targets": ("Qwen3MoeAttention", "Qwen3MoeSparseMoeBlock")}, *PASSES):
        yield _case("qwen3-30b-a3b", "gptq_w4a16", base=TWO, **options)
    yield _case("qwen3-30b-a3b", "gptq_w4a16", base={**TWO, "layers": 3}, targets_per_subgraph=2)
    single = {"sequential_targets": ("MixtralAttention", "ExpertMLPWithGate")}
    for recipe in ("gptq_w4a16", "rtn_w8a8_static"):
        yield _case("mixtral-8x7b", recipe, base=TWO, **single)
    single = {"sequential_targets": ("Qwen3MoeAttention", "ExpertMLPWithGate")}
    yield _case("qwen3-30b-a3b", "gptq_w4a16", base={**TWO, "layers": 1}, **single)
    yield _case("qwen3-30b-a3b", "gptq_w4a16", base=TWO, **single, targets_per_subgraph=32)


def _observers() -> Iterator[CudaCase]:
    """Observers, caches, several modifiers, and experts that go."""
    short = {**TWO, "seq_len": 512}
    for recipe in ("imatrix_w4a16", "gptq_imatrix", "nvfp4_imatrix", "rtn_static_observers", "attention_fp8"):
        yield _case("llama-3-8b", recipe, base=short)
    for recipe in ("embeddings_static", "gptq_over_static", "two_same", "mixed_groups"):
        yield _case("llama-3-8b", recipe, base=short)
    for recipe in ("imatrix_w4a16", "reap_25", "rtn_kv_heads"):
        yield _case("qwen3-30b-a3b", recipe, base=short)
    yield _case("mixtral-8x7b", "reap50", base=short)
    yield _case("gemma-3-27b", "rtn_w4a16_imatrix", base=short, layers=6)


def _recipes() -> Iterator[CudaCase]:
    for recipe in (
        "gptq_nvfp4",
        "gptq_fp8_block",
        "gptq_w4a16_asym_mse",
        "gptq_w4a16_no_actorder",
        "gptq_w4a16_no_batching",
        "gptq_w4a16_block64",
        "gptq_w4a16_block100",
        "sparsegpt_preserve_mask",
        "sparsegpt_then_gptq",
        "rtn_fp8_static",
        "rtn_mxfp4",
        "rtn_fp8_block",
        "rtn_w8a8_static_mse",
        "gptq_head",
        "head_w8a8",
    ):
        yield _case("llama-3-8b", recipe)


def _smoothed() -> Iterator[CudaCase]:
    """SmoothQuant, alone and before what quantizes."""
    yield _case("llama-3-8b", "smoothquant_w8a8", base=TWO, samples=7, batch_size=2, seq_len=1024)
    yield _case("qwen3-8b", "log_equalization_rtn", base=TWO, pipeline="sequential", samples=8)
    yield _case(str(CONFIGS / "gemma2.json"), "smoothquant", base=TWO, seq_len=512, samples=64)
    yield _case(str(CONFIGS / "cohere2.json"), "smoothquant_w8a8", base=TWO)
    yield _case("qwen3-30b-a3b", "smoothquant_w8a8", base=TWO, seq_len=1024, samples=3)
    yield _case("llama-2-7b", "smoothquant_custom", base=TWO, dtype="float16")
    yield _case("llama-3-8b", "smoothquant", base=TWO, sm=80, weights="gpu")


def _pruned() -> Iterator[CudaCase]:
    """Wanda on other widths, and on a card before Hopper."""
    yield _case("qwen3-30b-a3b", "wanda_2of4", base=TWO, seq_len=1024)
    yield _case(str(CONFIGS / "gemma2.json"), "wanda_50", base=TWO, seq_len=512, samples=64)
    yield _case("llama-3-8b", "wanda_50", base=TWO, sm=80, seq_len=4096)


def _rotated() -> Iterator[CudaCase]:
    """SpinQuant, with tied embeddings and with experts."""
    yield _case("qwen3-0.6b", "spinquant_w4a16", base=TWO)
    yield _case("qwen3-30b-a3b", "spinquant", base=TWO, layers=1)
    # the meter does not compute whole random matrices
    yield _case("qwen3-0.6b", "quip_matrix_whole", base={"progress_bars": False}, layers=2, samples=4, seq_len=512)
    for model, recipe, options in QUIP_JOBS[1:]:  # the first is a shipped recipe
        yield _case(model, recipe, base={"progress_bars": False}, **options)
