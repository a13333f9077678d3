"""Jobs that were measured and are in no table, as the plan is further off there than a test lets it be."""

from textwrap import fill

Job = tuple[str, str]
"""What was run, and how far the plan of it is off."""

SPREAD: tuple[Job, ...] = (
    (
        "qwen3-moe-16, AutoRound over four GPUs",
        "675 MB are planned on the second GPU, and between 682 and 722 were measured in seven runs: up to 7 % more. "
        "Autograd has a thread for each GPU, and experts wait for them side by side: which thread comes first differs "
        "from run to run. In the order that takes most, 789 are planned. The first GPU requested what is planned in "
        "all runs but one, which took 0.9 % more.",
    ),
    (
        "cohere2 (attention and MLP side by side), AutoRound over two GPUs",
        "the same race: 3.73 GB are planned on the first GPU, and between 3.57 and 3.90 were measured in seven runs, "
        "of two layers each; up to 3.90 are planned in the order that takes most. Reserved were between 4.49 and 5.13 "
        "GB, where 4.91 and 4.96 are planned.",
    ),
    (
        "qwen3-moe-16 with `--weights gpu`, whose experts become Linears there, AutoRound over two GPUs",
        "the same race: 1.237 GB are planned on the second GPU, and between 1.270 and 1.320 were measured in eight "
        "layers of four runs; up to 1.360 are planned in the order that takes most. The first GPU is equal to within "
        "2,200 B in every step, and reserved bytes within 0.2 %.",
    ),
)
"""Layers that are spread over several GPUs, on PyTorch's CUDA build, whose branches race: planner/models/threads.py.
A plan's note says how much more another order takes (planner/compress/tuning.py `cards_notes`), and
tests/measured/cuda/test_races.py that no run took more."""

CUDA: tuple[Job, ...] = (
    *SPREAD,
    (
        "qwen3-8b, AutoRound in NVFP4",
        "all steps are equal but one. While the second layer is calibrated, beside what the first one's training left "
        "to Python's collector, 2.09 GB are reserved and 2.29 planned.",
    ),
    (
        "autoround_w4a16 as it is shipped (three layers, four samples of 2,048 tokens, 200 iterations)",
        "all steps are equal but the last, finalize, in which 6 % too much is planned to be reserved.",
    ),
    (
        "qwen3-moe-16 with `--weights gpu`, whose experts become Linears there, AutoRound on one GPU (two layers, "
        "eight samples of 512 tokens)",
        "requested bytes are within 2,200 B in every step, and reserved ones within 2 % but while the second layer is "
        "trained: 5.27 GB are planned there and 5.52 were measured. The job's highest are 5.48 and 5.52 GB.",
    ),
    (
        "bamba, hooks on norms that leave the gate out (quip_config_gated, two layers, four samples of 256 tokens)",
        "requested bytes are equal in every step. From the first layer on, 0.234 to 0.238 GiB are planned to be "
        "reserved and 0.340 to 0.344 were measured (0.69 of them planned): requests of this model's convolution along "
        "the tokens come in another order there, where there is no cuDNN. In which order a real GPU has them was not "
        "measured.",
    ),
)

METER: tuple[Job, ...] = (
    (
        "qwen3-0.6b, AutoRound in float16 with `--ranks 2` (two layers, 40 samples of 512 tokens)",
        "0.824 GiB are planned and 0.849 were measured (-2.94 %). The difference, 26.8 MB, is what the counting "
        "device's rule for `silu_backward` holds and the kernel does not (`tests/meter/README.md`). On PyTorch's CUDA "
        "build the same job is equal, and in the table.",
    ),
    (
        "qwen3-0.6b, AutoRound beside hooks on norms, blocks and layers (quip_blocks_autoround)",
        "0.772 GiB are planned and 0.795 were measured (-2.84 %): 24.2 MB of the same `silu_backward`. On PyTorch's "
        "CUDA build the job is equal, and in the table.",
    ),
)

HEAD = """
## Measured, and not in the tables

{count} times a plan is further off than the tests allow, in a step or more. These are not in the table of the
instrument that measured them, nor in its counts.
"""


def part() -> str:
    """This part of docs/accuracy.md."""
    groups = (("On the counting device:", METER), ("On PyTorch's CUDA build over a pretended driver:", CUDA))
    head = HEAD.format(count=len(METER) + len(CUDA))
    return head + "".join(f"\n{where}\n\n{''.join(map(_entry, jobs))}" for where, jobs in groups)


def _entry(job: Job) -> str:
    text = f"- **{job[0]}**: {job[1]}"
    return fill(text, 118, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False) + "\n"
