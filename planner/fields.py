"""A job's fields, each once: its default, its option and help, the meter's word for it, and when a report names it.

The record `planner.job.Job` checks values; a test holds its defaults beside these. The command line, the meter's
arguments and the summary above a plan are made from this table. No pydantic and no torch here: `planner --help`
shows the table, and must be fast.
"""

from typing import Literal

from planner.hardware.gpus import CUDA_CONTEXT
from planner.job_field import JobField, Panel
from planner.spelling import (
    AS_IT_IS,
    BYTES,
    METER_DEVICE,
    METER_GIB,
    METER_MAP,
    METER_RANKS,
    NAMES,
    NEGATED,
    SIDES,
)
from planner.units import GIB

Pipeline = Literal["independent", "sequential", "basic", "datafree"]
OffloadDevice = Literal["cpu", "gpu", "gpu:1"]
Weights = Literal["cpu", "disk", "gpu"]
DType = Literal["bfloat16", "float16", "float32"]

Engine = Literal["vllm", "llama.cpp", "exllama"]
SplitMode = Literal["tensor", "expert", "layer"]
PlanMethod = Literal["simulate", "rule-of-thumb"]

DATA: Panel = "Calibration data"
PIPELINE: Panel = "How LLM Compressor runs"
MODEL: Panel = "How the model is loaded"
MACHINE: Panel = "The machine"

JOB_FIELDS: tuple[JobField, ...] = (
    JobField(
        name="samples",
        default=512,
        typed=int,
        panel=DATA,
        help="Number of calibration samples.",
        option="--samples",
        metavar="N",
    ),
    JobField(
        name="seq_len",
        default=2048,
        typed=int,
        panel=DATA,
        help="Tokens per sample, padding included.",
        option="--seq-len",
        metavar="TOKENS",
        decides_graph=True,
    ),
    JobField(
        name="batch_size",
        default=1,
        typed=int,
        panel=DATA,
        help="Samples per forward pass.",
        option="--batch-size",
        metavar="N",
        decides_graph=True,
    ),
    JobField(
        name="images",
        default=0,
        typed=int,
        panel=DATA,
        help="Images per sample, for vision models; 0 is text-only calibration. Their tokens count in --seq-len.",
        option="--images",
        metavar="N",
        decides_graph=True,
    ),
    JobField(
        name="image_size",
        default=(448, 448),
        typed=str,
        panel=DATA,
        help="Height and width of an image, pixels.",
        option="--image-size",
        metavar="HxW",
        spelling=SIDES,
        decides_graph=True,
    ),
    JobField(
        name="loss_mask",
        default=False,
        typed=bool,
        panel=DATA,
        help="Samples have a loss_mask, and use_loss_mask is set: AWQ looks at the tokens that it marks.",
        option="--loss-mask",
        unusual="loss masks",
    ),
    JobField(
        name="pipeline",
        default="independent",
        typed=Pipeline,
        panel=PIPELINE,
        help="independent (every modifier gets the one it needs), sequential, basic or datafree.",
        option="--pipeline",
        metavar="NAME",
    ),
    JobField(
        name="sequential_targets",
        default=None,
        typed=str | None,
        panel=PIPELINE,
        help="Class names to cut the model at, e.g. LlamaAttention,LlamaMLP. Default: the decoder layers, "
        "as LLM Compressor infers them.",
        option="--sequential-targets",
        metavar="A,B",
        spelling=NAMES,
        unusual="targets {}",
        decides_graph=True,
    ),
    JobField(
        name="targets_per_subgraph",
        default=1,
        typed=int,
        panel=PIPELINE,
        help="Targets (layers) that are on the GPU together.",
        option="--targets-per-subgraph",
        metavar="N",
        unusual="{} targets per subgraph",
    ),
    JobField(
        name="offload_device",
        default="cpu",
        typed=OffloadDevice,
        panel=PIPELINE,
        help="Where activations wait between subgraphs: cpu, gpu, or gpu:1, a second card of the same kind.",
        option="--offload-device",
        meter_spelling=METER_DEVICE,
        unusual="activations offloaded to {}",
    ),
    JobField(
        name="ranks",
        default=1,
        typed=int,
        panel=PIPELINE,
        help="Processes of a torchrun job (init_dist, load_context), each with its own GPU and its part of the "
        "samples. GPU figures are those of the one that takes most.",
        option="--ranks",
        metavar="N",
        meter_spelling=METER_RANKS,
        unusual="{} ranks",
        measurable=False,
    ),
    JobField(
        name="propagate_error",
        default=True,
        typed=bool,
        panel=PIPELINE,
        help="Run each subgraph once, and give the next one its uncompressed outputs.",
        option="--no-propagate-error",
        spelling=NEGATED,
        unusual="errors not propagated",
    ),
    JobField(
        name="prefetch",
        default=False,
        typed=bool,
        panel=PIPELINE,
        help="Fetch the next batch to the GPU during the current one.",
        option="--prefetch",
        unusual="prefetch",
    ),
    JobField(
        name="progress_bars",
        default=True,
        typed=bool,
        panel=PIPELINE,
        help="Run with TQDM_DISABLE=1. Otherwise a progress bar keeps the inputs of one more batch now and then.",
        option="--no-progress-bars",
        spelling=NEGATED,
        meter="--progress-bars",
        meter_spelling=AS_IT_IS,
        unusual="no progress bars",
    ),
    JobField(
        name="calibrate_all_experts",
        default=True,
        typed=bool,
        panel=PIPELINE,
        help="Mixture of experts: an expert sees only the tokens routed to it.",
        option="--no-calibrate-all-experts",
        spelling=NEGATED,
        unusual="routed experts only",
        decides_graph=True,
    ),
    JobField(
        name="linearized",
        default=False,
        typed=bool,
        panel=MODEL,
        help="Mixture of experts: loaded by load_quantizable_moe, with one Linear per projection. Otherwise "
        "oneshot converts the fused experts, which costs CPU memory.",
        option="--linearized",
        unusual="linear experts",
        decides_graph=True,
    ),
    JobField(
        name="dtype",
        default="bfloat16",
        typed=DType,
        panel=MODEL,
        help="Type the weights are loaded in: bfloat16, float16 or float32.",
        option="--dtype",
        metavar="TYPE",
        decides_graph=True,
    ),
    JobField(
        name="weights",
        default="cpu",
        typed=Weights,
        panel=MODEL,
        help="Where the weights lie while the job runs: cpu, as from_pretrained loads them; gpu with "
        'device_map="cuda", or "auto" on one card that has room for all; disk with load_offloaded_model and '
        'device_map="auto_offload".',
        option="--weights",
        meter="--device-map",
        meter_spelling=METER_MAP,
        unusual="weights on the {}",
        decides_graph=True,
        measurable=False,
    ),
    JobField(
        name="ram_for_weights_bytes",
        default=None,
        typed=str | None,
        panel=MODEL,
        help="With --weights disk: how much CPU memory weights may take before the rest stays on the disk. The library "
        "gives them what is free, less 5 GB; max_memory says another size. Default: none, all stays on the disk.",
        option="--ram-for-weights",
        metavar="SIZE",
        spelling=BYTES,
        meter="--cpu-gib",
        meter_spelling=METER_GIB,
        unusual="{} of RAM for them",
        decides_graph=True,
        measurable=False,
    ),
    JobField(
        name="layers",
        default=None,
        typed=int | None,
        panel=MODEL,
        help="Keep the first N layers of the text decoder.",
        option="--layers",
        metavar="N",
        unusual="first {} layers",
        decides_graph=True,
    ),
    JobField(
        name="vision_layers",
        default=None,
        typed=int | None,
        panel=MODEL,
        help="Keep the first N layers of the vision tower.",
        option="--vision-layers",
        metavar="N",
        unusual="first {} vision layers",
        decides_graph=True,
    ),
    JobField(
        name="gpu",
        default=None,
        typed=str | None,
        panel=MACHINE,
        help="The card: its name (l40s, h100, rtx4090, ...), for the memory that CUDA has of it, or a size, like 24GiB "
        "(2^30 bytes) or 24GB (10^9 bytes). GPTQ sizes its batches by it. Default: 80GiB.",
        option="--gpu",
        metavar="NAME|SIZE",
        metered=False,
    ),
    JobField(
        name="gpu_memory_bytes",
        default=80 * GIB,
        typed=str | None,
        panel=MACHINE,
        help="The same as --gpu, for a size.",
        option="--gpu-memory",
        metavar="SIZE",
        spelling=BYTES,
        meter="--gpu-memory-gib",
        meter_spelling=METER_GIB,
        said_in_help=True,
    ),
    JobField(
        name="sm",
        default=None,
        typed=int | None,
        panel=MACHINE,
        help="Compute capability of a card that is given by its size: 80 for 8.0, 90 for 9.0. Default: 90.",
        option="--sm",
        metavar="N",
        metered=False,
    ),
    JobField(
        name="alloc_conf",
        default="",
        typed=str,
        panel=MACHINE,
        help="PYTORCH_ALLOC_CONF of the job, like max_split_size_mb:128,garbage_collection_threshold:0.8.",
        option="--alloc-conf",
        metavar="TEXT",
        unusual="PYTORCH_ALLOC_CONF={}",
        metered=False,
    ),
    JobField(
        name="cuda_context_bytes",
        default=CUDA_CONTEXT,
        typed=str,
        panel=MACHINE,
        help="What the CUDA context takes of the card: 0.3 to 0.6 GB by driver, card and the kernels that are loaded.",
        option="--cuda-context",
        metavar="SIZE",
        spelling=BYTES,
        unusual="CUDA context of {}",
        metered=False,
    ),
)
"""In the order of `--help`."""
