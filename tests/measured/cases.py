"""The jobs that were measured with the real LLM Compressor, and how to name them in both tools."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.fields import JOB_FIELDS
from planner.job import Job
from planner.units import GIB
from tests.measured import autoround
from tests.measured.audio import METER as AUDIO_JOBS
from tests.measured.awq import METER as AWQ_JOBS

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
RUNS = HERE / "runs"
RECIPES = HERE / "recipes"
SHIPPED = HERE.parent.parent / "recipes"

LLAMA_RECIPES = ("rtn_w8a8_static", "rtn_nvfp4", "gptq_w4a16", "gptq_w8a8", "sparsegpt_2of4")
SHORT: dict[str, Any] = {"layers": 3, "samples": 4}
TINY: dict[str, Any] = {"layers": 2, "samples": 4, "seq_len": 512}

PARTS = ("Qwen3Attention", "Qwen3MLP")

QUIP_JOBS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llama-3-8b", "quip_w4a16", {"layers": 2, "samples": 4}),
    ("llama-3-8b", "quip_gptq", {"layers": 2, "samples": 4}),
    ("llama-3-8b", "quip_both_gptq", {"layers": 2, "samples": 4, "seq_len": 512}),
    ("llama-3-8b", "quip_static", {"layers": 2, "samples": 8, "seq_len": 512, "batch_size": 2}),
    ("qwen2.5-7b", "quip_random_gptq", {"layers": 2, "samples": 4, "seq_len": 1024}),
    ("qwen3-0.6b", "quip_both_whole", TINY),
    ("qwen3-0.6b", "quip_head", TINY),
    ("qwen3-30b-a3b", "quip_gptq", {"layers": 1, "samples": 4}),
    ("qwen3-0.6b", "quip_both_gptq", {**TINY, "pipeline": "sequential", "prefetch": True}),
    ("qwen3-0.6b", "quip_both_gptq", {**TINY, "sequential_targets": ("Linear",)}),
    ("qwen3-0.6b", "quip_both_gptq", {**TINY, "weights": "gpu", "offload_device": "gpu"}),
    (str(CONFIGS / "cohere2.json"), "quip_random_gptq", {"layers": 1, "samples": 4, "seq_len": 512}),
    ("qwen2.5-7b", "spinquant_random", {"layers": 2, "samples": 4}),
    ("llama-3-8b", "spinquant_r4_gptq", {"layers": 2, "samples": 4}),
    ("qwen3-0.6b", "spinquant_r4", {"layers": 4, "samples": 4, "seq_len": 512}),
    ("llama-3-8b", "quip_matrix_gptq", TINY),
    ("qwen3-0.6b", "spinquant_matrix", TINY),
    ("qwen3-0.6b", "quip_fp32_gptq", TINY),
    (str(CONFIGS / "cohere2-moe.json"), "spinquant_moe", TINY),
    (str(CONFIGS / "cohere2-moe.json"), "spinquant_moe", {**TINY, "linearized": True}),
    ("qwen3-0.6b", "spinquant_r3", {"layers": 2, "samples": 64, "batch_size": 16, "seq_len": 128}),
    ("llama-2-7b", "spinquant_r3", {"layers": 2, "samples": 32, "batch_size": 16, "seq_len": 64}),
    ("llama-2-7b", "spinquant_r3", {"layers": 2, "samples": 2, "seq_len": 256}),
    (str(CONFIGS / "gemma2.json"), "spinquant_r3", TINY),
    ("qwen3-30b-a3b", "spinquant_r3", {**TINY, "layers": 1}),
    ("qwen3-0.6b", "spinquant_r3_r4_gptq", TINY),
    ("qwen3-0.6b", "spinquant_r3_kv", {"layers": 2, "samples": 5, "batch_size": 2, "seq_len": 512}),
    ("llama-3-8b", "spinquant_r3_awq_norms", {"layers": 2, "samples": 6, "batch_size": 4, "seq_len": 256}),
    ("qwen3-0.6b", "quip_config_fused_gptq", TINY),
    ("llama-3-8b", "quip_config_fused_gptq", TINY),
    ("qwen3-0.6b", "quip_config_online_gptq", {**TINY, "batch_size": 2}),
    ("llama-3-8b", "quip_config_online_gptq", TINY),
    ("qwen3-0.6b", "spinquant_config", TINY),
    ("qwen3-0.6b", "quip_config_permuted_gptq", {**TINY, "batch_size": 2}),
    ("qwen3-0.6b", "quip_config_permuted_gptq", {**TINY, "dtype": "float16"}),
    ("qwen3-0.6b", "quip_permuted_static", TINY),
    ("qwen3-0.6b", "quip_permuted_static", {**TINY, "weights": "gpu", "offload_device": "gpu"}),
    ("qwen3-0.6b", "quip_permuted_static", {**TINY, "pipeline": "basic", "weights": "gpu"}),
    ("qwen3-0.6b", "spinquant_bf16_gptq", {**TINY, "batch_size": 2}),
    ("qwen3-0.6b", "quip_config_blocks_gptq", {**TINY, "batch_size": 2}),
    ("qwen3-0.6b", "quip_config_acts", {**TINY, "batch_size": 2}),
    ("qwen3-0.6b", "quip_config_acts", {**TINY, "weights": "gpu"}),
    ("qwen3-0.6b", "quip_config_acts", {**TINY, "pipeline": "basic", "weights": "gpu"}),
    ("qwen3-0.6b", "quip_config_held", {**TINY, "sequential_targets": PARTS}),
    ("qwen3-0.6b", "quip_config_held", {**TINY, "sequential_targets": PARTS, "weights": "gpu"}),
    ("qwen3-0.6b", "quip_config_held", {**TINY, "sequential_targets": PARTS, "weights": "gpu", "pipeline": "basic"}),
    ("qwen3-0.6b", "quip_config_held_keys", {**TINY, "sequential_targets": PARTS}),
    ("qwen3-0.6b", "quip_config_held_names", {**TINY, "sequential_targets": PARTS}),
    ("qwen3-0.6b", "quip_two_groups", TINY),
    (str(CONFIGS / "phi.json"), "quip_config_returned", TINY),
    (str(CONFIGS / "phi.json"), "quip_config_returned", {**TINY, "weights": "gpu"}),
)
"""QuIP on inputs alone and on outputs too, in blocks and whole, on a tied head, and on experts. R3, which rotates keys,
where these products are the peak, and beside R4, quantized caches, and blocks that run again. Groups of the recipe's
own: fused, online, several on one input, permuted in each product, in 16 bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One job; `recipe` is a shipped recipe's name or that of a file in `recipes/` beside this one."""

    model: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        return Path(self.model).stem if self.model.endswith(".json") else self.model

    @property
    def name(self) -> str:
        words = [f"{key.replace('_', '')}{_word(value)}" for key, value in self.options.items() if key != "samples"]
        return "-".join([self.model_name, self.recipe, *words])

    @property
    def job(self) -> Job:
        """Without progress bars, as the meter runs, unless the case is about them."""
        return Job(**{"progress_bars": False, **self.options})

    @property
    def recipe_path(self) -> Path:
        own = RECIPES / f"{self.recipe}.yaml"
        return own if own.exists() else SHIPPED / f"{self.recipe}.yaml"

    @property
    def recorded(self) -> Path:
        return RUNS / f"{self.name}.json"


def meter_arguments(job: Job) -> list[str]:
    """The same job in the words of the meter's command line (tests/meter)."""
    return [word for field in JOB_FIELDS for word in field.meter_words(getattr(job, field.name))]


def options(case: Case, **more: Any) -> str:
    """The options that differ from the defaults, as on the command line; progress bars are said where they are on."""
    words = ["progress bars"] if case.job.progress_bars else []
    given = {**case.options, **more}
    for field_ in (field_ for field_ in JOB_FIELDS if field_.name in given and field_.name != "progress_bars"):
        typed = field_.spelling.write(given[field_.name])
        words += [field_.option] if typed is True else [field_.option, str(typed)] if typed is not False else []
    return f"`{' '.join(words)}`"


def cases() -> Iterator[Case]:
    """Every measured job."""
    yield from _llama()
    yield from _moe()
    yield from _vision()
    yield from _options()
    yield from _families()
    yield from _corners()
    yield from _places()
    for model, recipe, options in (*AWQ_JOBS, *AUDIO_JOBS):
        yield Case(model=named(model), recipe=recipe, options=options)
    yield from (Case(model=model, recipe=recipe, options=options) for model, recipe, options in autoround.METER_JOBS)
    yield from _smoothed()
    yield from _pruned()
    yield from _observers()
    yield from _modifiers()
    yield from _masked()
    yield from _rotated()


def _llama() -> Iterator[Case]:
    for recipe in LLAMA_RECIPES:
        for seq_len in (512, 2048, 4096):
            for batch_size in (1, 4):
                options = {"layers": 3, "samples": 4 * batch_size, "seq_len": seq_len, "batch_size": batch_size}
                yield Case(model="llama-3-8b", recipe=recipe, options=options)
    for recipe in ("gptq_w4a16_no_actorder", "gptq_w4a16_no_batching", "gptq_w4a16_block64", "gptq_w4a16_asym_mse"):
        yield Case(model="llama-3-8b", recipe=recipe, options=SHORT)
    for recipe in ("gptq_nvfp4", "rtn_fp8_static", "sparsegpt_50", "head_w8a8", "sparsegpt_then_gptq"):
        yield Case(model="llama-3-8b", recipe=recipe, options=SHORT)
    for recipe in ("rtn_fp8_dynamic", "rtn_w4a16", "rtn_fp8_block", "rtn_mxfp4"):
        yield Case(model="llama-3-8b", recipe=recipe, options=SHORT)
    # the whole depth: the CPU peak, and statistics that add up over all modules
    for recipe in ("gptq_w4a16", "rtn_w4a16", "rtn_fp8_dynamic"):
        yield Case(model="llama-3-8b", recipe=recipe, options={"samples": 8})


def _moe() -> Iterator[Case]:
    for recipe in ("rtn_w8a8_static", "gptq_w4a16"):
        for memory in (24, 80):
            yield Case(model="qwen3-30b-a3b", recipe=recipe, options={**SHORT, "gpu_memory_bytes": memory * GIB})
    yield Case(model="qwen3-30b-a3b", recipe="gptq_w4a16", options={**SHORT, "linearized": True})
    yield Case(model="qwen3-30b-a3b", recipe="gptq_w4a16", options={**SHORT, "calibrate_all_experts": False})
    yield Case(model="qwen3-30b-a3b", recipe="sparsegpt_2of4", options=SHORT)
    yield Case(model="qwen3-30b-a3b", recipe="rtn_w4a16", options=SHORT)


def _vision() -> Iterator[Case]:
    for recipe in ("rtn_w8a8_static", "gptq_w4a16"):
        yield Case(model="qwen2.5-vl-7b", recipe=recipe, options=SHORT)
        yield Case(model="qwen2.5-vl-7b", recipe=recipe, options={**SHORT, "images": 1, "image_size": (644, 644)})


def _options() -> Iterator[Case]:
    changes: tuple[dict[str, Any], ...] = (
        {"targets_per_subgraph": 2},
        {"propagate_error": False},
        {"prefetch": True},
        {"offload_device": "gpu"},
        {"dtype": "float16"},
        {"samples": 5, "batch_size": 2},
        {"sequential_targets": ("LlamaAttention", "LlamaMLP")},
    )
    for change in changes:
        yield Case(model="llama-3-8b", recipe="gptq_w4a16", options={**SHORT, **change})
    yield Case(model="llama-3-8b", recipe="rtn_w8a8_static", options={**SHORT, "pipeline": "basic"})
    yield from _progress_bars()
    yield Case(
        model="llama-3-8b", recipe="gptq_w4a16", options={**SHORT, "layers": 2, "sequential_targets": ("Linear",)}
    )
    for recipe in ("sparsegpt_preserve_mask", "gptq_w4a16_block100", "gptq_fp8_block", "rtn_w8a8_static_mse"):
        yield Case(model="llama-3-8b", recipe=recipe, options=SHORT)


def _progress_bars() -> Iterator[Case]:
    """As people run: bars on. A batch more stays alive while every second batch runs."""
    changes: tuple[dict[str, Any], ...] = (
        {"samples": 3},
        {"samples": 9, "batch_size": 2, "seq_len": 1024},
        {"prefetch": True},
        {"offload_device": "gpu"},
        {"propagate_error": False, "prefetch": True},
        {"targets_per_subgraph": 2, "seq_len": 512},
    )
    for change in changes:
        yield Case(model="llama-3-8b", recipe="gptq_w4a16", options={**SHORT, "progress_bars": True, **change})
    bars = {**SHORT, "progress_bars": True}
    yield Case(model="llama-3-8b", recipe="rtn_w8a8_static", options={**bars, "pipeline": "sequential"})
    yield Case(model="llama-3-8b", recipe="rtn_w8a8_static", options={**bars, "pipeline": "basic", "seq_len": 128})
    below = {"layers": 2, "progress_bars": True, "sequential_targets": ("LlamaAttention", "LlamaMLP")}
    yield Case(model="llama-3-8b", recipe="sparsegpt_2of4", options={**SHORT, **below})
    images = {**SHORT, "images": 1, "progress_bars": True}
    yield Case(model="qwen2.5-vl-7b", recipe="rtn_w8a8_static", options=images)
    yield Case(model="qwen3-30b-a3b", recipe="rtn_w8a8_static", options={**SHORT, "layers": 2, "progress_bars": True})


def _families() -> Iterator[Case]:
    for model, recipe, layers in (
        ("qwen3-0.6b", "head_w8a8", 3),
        ("deepseek-r1", "gptq_w4a16", 4),
        ("deepseek-r1", "rtn_w8a8_static", 4),
        ("mixtral-8x7b", "gptq_w4a16", 2),
        ("gpt-oss-20b", "gptq_w8a8", 3),
        ("llama-4-scout", "rtn_w8a8_static", 4),
        ("gemma-3-27b", "gptq_w4a16", 7),
        ("mistral-7b", "sparsegpt_2of4", 3),
        ("command-a-vision", "rtn_w8a8_static", 4),
        ("llama-2-70b", "gptq_w4a16", 2),
    ):
        yield Case(model=model, recipe=recipe, options={"layers": layers, "samples": 4})
    experts = {
        "sequential_targets": ("Qwen3MoeAttention", "ExpertMLPWithGate"),
        "targets_per_subgraph": 32,
        "linearized": True,
    }
    yield Case(model="qwen3-30b-a3b", recipe="gptq_w4a16", options={"layers": 2, "samples": 4, **experts})
    yield Case(model="llama-4-scout", recipe="gptq_w4a16", options={"layers": 4, "samples": 4})
    yield Case(
        model="deepseek-r1", recipe="gptq_w4a16", options={"layers": 5, "samples": 4, "gpu_memory_bytes": 141 * GIB}
    )
    yield Case(
        model="qwen2.5-vl-7b",
        recipe="sparsegpt_2of4",
        options={"layers": 3, "samples": 4, "images": 2, "image_size": (448, 336)},
    )
    yield Case(model="gemma-3-27b", recipe="rtn_w8a8_static", options={"layers": 7, "samples": 4, "images": 1})


def _corners() -> Iterator[Case]:
    """Jobs that a review found wrong, and what they now hold fast."""
    for recipe in ("rtn_nvfp4a16", "gptq_embedding", "gptq_head", "rtn_fp8_outputs"):
        yield Case(model="llama-3-8b", recipe=recipe, options={**SHORT, "seq_len": 512})
    short = {"layers": 2, "samples": 15, "batch_size": 8, "seq_len": 1024}
    yield Case(model="llama-3-8b", recipe="gptq_w4a16", options=short)
    odd = {"propagate_error": False, "prefetch": True, "samples": 9, "batch_size": 2}
    yield Case(model="llama-3-8b", recipe="rtn_w8a8_static", options={**SHORT, **odd})
    # enough samples that what a model returns would show in the cache, if it crossed borders
    images = {"layers": 1, "samples": 48, "images": 4}
    yield Case(model="gemma-3-27b", recipe="rtn_w8a8_static", options=images)
    many = {"layers": 2, "samples": 48, "images": 2, "image_size": (336, 336)}
    yield Case(model=_config("llava"), recipe="rtn_w8a8_static", options=many)
    yield Case(
        model=_config("paligemma"), recipe="gptq_w4a16", options={**SHORT, "images": 1, "image_size": (224, 224)}
    )
    large = {"layers": 4, "samples": 3, "images": 1, "image_size": (1408, 1408)}
    yield Case(model=_config("qwen3-vl"), recipe="rtn_w8a8_static", options=large)
    yield Case(model=_config("gemma4"), recipe="rtn_w8a8_static", options={"samples": 48, "seq_len": 512})
    yield Case(model=_config("falcon"), recipe="gptq_w8a8", options=SHORT)
    parallel = {"sequential_targets": ("Cohere2Attention", "Cohere2MLP")}
    yield Case(model=_config("cohere2"), recipe="gptq_w4a16", options={**SHORT, "layers": 2, **parallel})


def _places() -> Iterator[Case]:
    """Weights that do not wait on the CPU."""
    on_gpu = {**SHORT, "weights": "gpu"}
    for recipe in ("gptq_w4a16", "sparsegpt_2of4", "rtn_w8a8_static", "rtn_w4a16", "gptq_nvfp4"):
        yield Case(model="llama-3-8b", recipe=recipe, options=on_gpu)
    yield Case(model="llama-3-8b", recipe="rtn_w8a8_static", options={**on_gpu, "pipeline": "basic", "samples": 3})
    yield Case(model="qwen3-0.6b", recipe="head_w8a8", options=on_gpu)
    yield Case(model="qwen3-30b-a3b", recipe="gptq_w4a16", options={**on_gpu, "layers": 2})
    on_disk = {**SHORT, "weights": "disk"}
    for recipe in ("gptq_w4a16", "sparsegpt_2of4", "rtn_w8a8_static", "rtn_w4a16"):
        yield Case(model="llama-3-8b", recipe=recipe, options=on_disk)
    in_part = {**on_disk, "layers": 4, "ram_for_weights_bytes": 3 * GIB}
    yield Case(model="llama-3-8b", recipe="gptq_w4a16", options=in_part)
    yield Case(model="llama-3-8b", recipe="head_w8a8", options=on_disk)
    for recipe in ("gptq_w4a16", "rtn_w8a8_static"):
        yield Case(model="llama-3-8b", recipe=recipe, options={**SHORT, "ranks": 2, "samples": 8})


def _smoothed() -> Iterator[Case]:
    """SmoothQuant, alone and before what quantizes."""
    two = {"layers": 2}
    batches = {**two, "samples": 7, "batch_size": 2, "seq_len": 1024}
    yield Case(model="llama-3-8b", recipe="smoothquant_w8a8", options=batches)
    yield Case(model="llama-3-8b", recipe="smoothquant", options={**two, "samples": 64, "weights": "gpu"})
    together = {**two, "samples": 8, "pipeline": "sequential"}
    yield Case(model="qwen3-8b", recipe="log_equalization_rtn", options=together)
    yield Case(model=_config("gemma2"), recipe="smoothquant", options={**two, "samples": 512, "seq_len": 512})
    yield Case(model=_config("cohere2"), recipe="smoothquant_w8a8", options={**two, "samples": 4})
    yield Case(model="qwen3-30b-a3b", recipe="smoothquant_w8a8", options={**two, "samples": 3, "seq_len": 1024})
    yield Case(model="llama-2-7b", recipe="smoothquant_custom", options={**two, "samples": 4, "dtype": "float16"})
    seen = {**two, "samples": 4, "images": 1, "image_size": (448, 448)}
    yield Case(model=_config("qwen3-vl"), recipe="smoothquant", options=seen)


def _pruned() -> Iterator[Case]:
    """Wanda, with a pattern and without."""
    two = {"layers": 2}
    batches = {**two, "samples": 16, "batch_size": 4, "seq_len": 512}
    yield Case(model="llama-3-8b", recipe="wanda_50", options=batches)
    yield Case(model="qwen3-30b-a3b", recipe="wanda_2of4", options={**two, "samples": 3, "seq_len": 1024})
    yield Case(model=_config("gemma2"), recipe="wanda_50", options={**two, "samples": 64, "seq_len": 512})
    seen = {**two, "samples": 4, "images": 1, "image_size": (448, 448)}
    yield Case(model=_config("qwen3-vl"), recipe="wanda_2of4", options=seen)


def _observers() -> Iterator[Case]:
    """Every observer; what it sees of weights, inputs, outputs, keys and values."""
    for recipe in ("imatrix_w4a16", "imatrix_channel", "gptq_imatrix", "nvfp4_imatrix", "nvfp4_expanded"):
        yield Case(model="llama-3-8b", recipe=recipe, options=TINY)
    for recipe in ("rtn_static_observers", "rtn_kv_fp8", "rtn_kv_heads", "attention_fp8"):
        yield Case(model="llama-3-8b", recipe=recipe, options=TINY)
    for samples, batch_size in ((64, 1), (512, 8)):
        options = {**TINY, "samples": samples, "batch_size": batch_size}
        yield Case(model="llama-3-8b", recipe="rtn_w4a16_imatrix", options=options)
    yield Case(model="gemma-3-27b", recipe="rtn_w4a16_imatrix", options={**TINY, "layers": 6})
    yield Case(model="gemma-3-27b", recipe="rtn_kv_fp8", options={**TINY, "layers": 6})
    yield Case(model=_config("cohere2"), recipe="gptq_imatrix", options=TINY)
    yield Case(model=_config("cohere2"), recipe="rtn_kv_heads", options=TINY)
    for recipe in ("imatrix_w4a16", "rtn_kv_heads"):
        yield Case(model="qwen3-30b-a3b", recipe=recipe, options=TINY)
    yield Case(model="mixtral-8x7b", recipe="imatrix_w4a16", options=TINY)
    yield Case(model="deepseek-r1", recipe="rtn_kv_fp8", options={**TINY, "layers": 4, "linearized": True})
    yield Case(model="qwen2.5-vl-7b", recipe="attention_fp8", options={**TINY, "images": 1})


def _modifiers() -> Iterator[Case]:
    """What one modifier leaves, the next one finds; mixed schemes; experts that go."""
    for recipe in ("embeddings_static", "gptq_over_static", "two_same", "mixed_groups", "gptq_mixed"):
        yield Case(model="llama-3-8b", recipe=recipe, options=TINY)
    for model in ("qwen3-30b-a3b", "mixtral-8x7b", "gpt-oss-20b"):
        yield Case(model=model, recipe="reap_25", options=TINY)
    yield Case(model="qwen3-30b-a3b", recipe="reap_nvfp4", options={**TINY, "pipeline": "sequential"})
    experts = {**TINY, "layers": 4, "samples": 64, "batch_size": 4, "linearized": True}
    yield Case(model="qwen3-30b-a3b", recipe="reap_25", options=experts)


def _masked() -> Iterator[Case]:
    """Masks on the CPU, alone, beside a quantizing modifier, and in a pipeline that runs the model."""
    two = {"layers": 2, "samples": 4}
    yield Case(model="llama-3-8b", recipe="magnitude_50", options=two)
    passes = {**two, "seq_len": 512, "samples": 2, "pipeline": "sequential"}
    yield Case(model="llama-3-8b", recipe="magnitude_50", options=passes)
    yield Case(model="qwen3-8b", recipe="magnitude_idle", options={"layers": 2})
    yield Case(model="qwen3-30b-a3b", recipe="magnitude_50", options={"layers": 1})
    yield Case(model=_config("gemma2"), recipe="constant_then_rtn", options={"layers": 2, "seq_len": 512})


def _rotated() -> Iterator[Case]:
    """SpinQuant before weights are rounded: untied and tied embeddings, and experts."""
    yield Case(model="llama-3-8b", recipe="spinquant_w4a16", options={"layers": 2, "samples": 4})
    yield Case(model="qwen3-0.6b", recipe="spinquant_w4a16", options={"layers": 2, "samples": 4})
    yield Case(model="qwen3-30b-a3b", recipe="spinquant", options={"layers": 1, "samples": 4})
    yield from (Case(model=model, recipe=recipe, options=options) for model, recipe, options in QUIP_JOBS)
    # not on PyTorch's CUDA build: what is reserved there is told in apart.py
    yield Case(model=_config("bamba"), recipe="quip_config_gated", options={**TINY, "seq_len": 256})


def _config(name: str) -> str:
    """A config of true widths that is no preset."""
    return str(CONFIGS / f"{name}.json")


def named(name: str) -> str:
    """A preset, or a config beside this file."""
    return _config(name) if (CONFIGS / f"{name}.json").exists() else name


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, int) and value >= GIB:
        return f"{value // GIB}gib"
    return str(value).replace(":", "")
