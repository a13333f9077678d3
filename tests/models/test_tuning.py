"""A layer trained on tensors without data: what is made, what autograd keeps, what a step leaves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from planner.errors import JobError, UnsupportedError
from planner.job import Job
from planner.models.autograd import TrainingRecorder
from planner.models.built import BuiltModel
from planner.models.captured import likeness, passed, refuse_other_rows
from planner.models.load import graph_of, load_built
from planner.models.recorder import NoListener
from planner.models.rounded import round_linear
from planner.models.traces import Event, memory_events
from planner.models.tuned import LinearTuning, TunedBlock, TuningRequest, left
from planner.models.tuned_linear import TunedLinear
from planner.timeline import fold

ROWS, COLUMNS, GROUP = 64, 32, 16
INT4 = LinearTuning(weights="int_sym", bits=4, group=GROUP)
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
}
NAMES = tuple(f".self_attn.{x}_proj" for x in "qkvo") + tuple(f".mlp.{x}_proj" for x in ("gate", "up", "down"))
JOB = Job(samples=10, seq_len=16)


@pytest.fixture(scope="module")
def built() -> BuiltModel:
    return load_built(CONFIG, JOB.build)


def tuned(built: BuiltModel, how: LinearTuning = INT4, names: tuple[str, ...] = NAMES, job: Job = JOB) -> TunedBlock:
    request = TuningRequest(
        layer="model.layers.1", linears=tuple((name, how) for name in names), rows=8, last_rows=2, trained=(8,)
    )
    graph = graph_of(built, job)
    assert graph.tune is not None
    return graph.tune(request)


def recorded(run: Callable[[TrainingRecorder], None]) -> list[Event]:
    """The events of what runs on tensors without data."""
    recorder = TrainingRecorder(0, NoListener())
    with recorder:
        recorder.begin()
        run(recorder)
        return list(recorder.events)


# ---------------------------------------------------------------------- one Linear
def test_a_linear_gets_a_rounding_for_each_weight_and_two_scales_for_each_group() -> None:
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False, device="meta", dtype=torch.bfloat16)
    wrapped = TunedLinear(linear, INT4, None, None)
    groups = ROWS * COLUMNS // GROUP
    assert [p.numel() * p.element_size() for p in wrapped.trained] == [ROWS * COLUMNS * 4, groups * 4, groups * 4]
    assert wrapped.weight_min.shape == wrapped.weight_max.shape == (groups,)


def test_a_gradient_of_two_parts_is_summed_up_in_place() -> None:
    x, given = (torch.empty(100, device="meta", requires_grad=wanted) for wanted in (True, False))

    def run(recorder: TrainingRecorder) -> None:
        y = (x * 2) + (x * 3)
        with recorder.backward():
            torch.autograd.backward(y, given)

    made = [(event.operator, event.bytes) for event in recorded(run) if event.kind == "alloc"]
    forward, backward = made[:3], made[3:]
    assert forward == [("mul", 400), ("mul", 400), ("add", 400)]
    assert backward == [("mul", 400), ("mul", 400)], "and no sum"


def test_a_part_that_another_holds_is_not_changed() -> None:
    x, given = (torch.empty(100, device="meta", requires_grad=wanted) for wanted in (True, False))

    def run(recorder: TrainingRecorder) -> None:
        y = x + (x * 3)
        with recorder.backward():
            torch.autograd.backward(y, given)

    made = [(event.operator, event.bytes) for event in recorded(run) if event.kind == "alloc"]
    assert ("add", 400) in made[2:], "the first part is the gradient that backward was given"


# ---------------------------------------------------------------------- what is passed
def test_positions_of_each_sample_of_the_first_batch_stop_a_batch_of_other_size() -> None:
    """AutoRound hands them to every batch: Qwen2.5-VL's have a row for each sample, Llama's one row for all."""
    one, two = ({"position_embeddings": (torch.empty(3, rows, 16, 8, device="meta"),)} for rows in (1, 2))
    job = JOB.model_copy(update={"batch_size": 2})

    def asked(rows: int) -> TuningRequest:
        return TuningRequest(layer="layers.1", linears=(), rows=rows, last_rows=0, trained=(rows,))

    with pytest.raises(JobError, match=r"--batch-size 2: .* position_embeddings of the first one, .* --batch-size 1"):
        refuse_other_rows(two, one, job, asked(8))
    refuse_other_rows(two, one, job, asked(2))
    refuse_other_rows(one, one, job, asked(8))


# ---------------------------------------------------------------------- without iterations
def peak(how: LinearTuning, *, search: bool) -> int:
    """Bytes that a weight's rounding takes beside it."""
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False, device="meta", dtype=torch.bfloat16).requires_grad_(False)
    squares = torch.empty(COLUMNS, device="meta") if search else None
    live, most = {}, 0
    for event in recorded(lambda _: round_linear(linear, how, squares, None, search)):
        if event.kind == "alloc":
            live[event.id] = event.bytes
        elif event.kind == "free":
            live.pop(event.id, None)
        most = max(most, sum(live.values()))
    return most


def test_a_search_holds_the_squares_the_loss_and_two_rounded_weights() -> None:
    """16 bytes of each weight: squares, loss and its root in fp32, two roundings in bf16; and a few of each group."""
    weights, groups = ROWS * COLUMNS, ROWS * COLUMNS // GROUP
    assert 16 * weights < peak(INT4, search=True) < 16 * weights + 64 * groups
    assert 6 * weights < peak(INT4, search=False) < 6 * weights + 64 * groups


# ---------------------------------------------------------------------- a whole layer
def test_an_iteration_finds_and_leaves_reference_prediction_and_loss(built: BuiltModel) -> None:
    block, hidden = tuned(built), 8 * 16 * 64
    sizes = {event.id: event.bytes for phase in block.phases() for event in phase if event.kind == "alloc"}
    leaves = left(block.iteration)
    assert [sizes[number] for number in leaves] == [hidden * 2, hidden * 2, hidden * 4]
    assert len(block.found) == len(leaves), "the loss keeps the storage that was made for all squares"
    assert not set(block.found) & set(sizes), "the first iteration finds nothing"


def test_what_is_kept_is_what_is_trained_and_the_extremes_of_the_groups(built: BuiltModel) -> None:
    block = tuned(built)
    weights = sum(nbytes for nbytes in block.weights if nbytes > 2 * 64) // 2
    groups = weights // GROUP
    assert sum(block.trained) == 4 * weights + 2 * 4 * groups
    sizes = {event.id: event.bytes for event in block.wrap if event.kind == "alloc"}
    assert sum(sizes[number] for number in block.kept) == sum(block.trained) + 2 * 2 * groups


def test_a_pass_leaves_nothing_and_a_smaller_one_takes_less(built: BuiltModel) -> None:
    block = tuned(built)
    peaks = []
    for events in (*block.reference, *block.collect):
        assert not left(events)
        peaks.append(fold(memory_events(events)).level.peak)
    whole, last, whole_again, last_again = peaks
    assert whole == whole_again > last == last_again
    assert block.output == 16 * 64 * 2


def test_every_step_back_frees_what_autograd_kept(built: BuiltModel) -> None:
    block = tuned(built)
    before = sum(block.trained)
    peak = fold(memory_events(block.iteration)).level.peak
    assert peak > before, "each Linear keeps its weight in fp32 several times, and gets gradients of the same size"
    kept = fold(memory_events(block.iteration)).level.live
    assert kept == 8 * 16 * 64 * (2 + 2 + 4)


def test_linears_that_are_not_named_are_left_alone(built: BuiltModel) -> None:
    block = tuned(built, names=(".mlp.down_proj",))
    assert block.trained == (64 * 128 * 4, 512 * 4, 512 * 4)


@pytest.mark.parametrize(
    ("how", "passes"),
    [
        (LinearTuning(weights="mx_fp", bits=4, group=32, inputs="mx_fp", input_bits=4, input_group=32), 0),
        (
            LinearTuning(
                weights="nv_fp", bits=4, group=16, inputs="nv_fp", input_bits=4, input_group=16, static=True,
                global_range=True,
            ),
            3,
        ),
        (LinearTuning(weights="fp8", bits=8, group=-1, inputs="fp8", input_bits=8, input_group=0, static=True), 3),
        (LinearTuning(weights="int_asym", bits=4, group=16), 0),
    ],
    ids=["mxfp4", "nvfp4", "fp8", "int4 asymmetric"],
)  # fmt: skip
def test_a_static_range_takes_a_pass_of_its_own(built: BuiltModel, how: LinearTuning, passes: int) -> None:
    block = tuned(built, how, names=(".mlp.down_proj",))
    assert len(block.observed) == passes, "a first batch, a whole one, a smaller one"
    more = how.inputs is not None
    first = [fold(memory_events(events[0])).level.peak for events in (block.reference, block.collect)]
    assert (first[1] > first[0]) == more, "inputs stay quantized after the training"


def test_the_model_is_as_it_was(built: BuiltModel) -> None:
    before = {name: type(module) for name, module in built.module.named_modules()}
    frozen = [parameter.requires_grad for parameter in built.module.parameters()]
    tuned(built)
    assert {name: type(module) for name, module in built.module.named_modules()} == before
    assert [parameter.requires_grad for parameter in built.module.parameters()] == frozen


def test_fp16_is_trained_in_bfloat16_and_fp32_is_refused(built: BuiltModel) -> None:
    def sizes(block: TunedBlock) -> list[Any]:
        return [(event.kind, event.bytes) for event in block.iteration]

    half = Job(samples=10, seq_len=16, dtype="float16")
    assert sizes(tuned(load_built(CONFIG, half.build), job=half)) == sizes(tuned(built))
    single = Job(samples=10, seq_len=16, dtype="float32")
    with pytest.raises(UnsupportedError, match="float32"):
        tuned(load_built(CONFIG, single.build), job=single)


@pytest.mark.parametrize("part", ["self_attn", "mlp"])
def test_a_part_of_a_layer_is_passed_what_it_is_passed_where_all_before_it_run(part: str, built: BuiltModel) -> None:
    job = JOB.model_copy(update={"sequential_targets": ("LlamaAttention", "LlamaMLP")})
    parts = [f"model.layers.{number}.{name}" for number in (0, 1) for name in ("self_attn", "mlp")]
    layer = f"model.layers.1.{part}"
    request = TuningRequest(layer=layer, linears=(), rows=8, last_rows=2, trained=(8,))

    def shapes(targets: list[str]) -> dict[str, Any]:
        found = passed(built.module, job, targets, request)
        return {name: getattr(value, "shape", value) for name, value in found.items() if name != "position_embeddings"}

    assert shapes(parts) == shapes([layer])


def test_parts_with_other_weights_or_arguments_run_and_those_alike_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[int, ...]] = []
    forward_of = likeness()
    for rows, columns, tokens in ((4, 8, 2), (4, 8, 2), (8, 8, 2), (4, 8, 3)):
        linear = torch.nn.Linear(columns, rows, device="meta")
        run = linear.forward
        monkeypatch.setattr(linear, "forward", lambda x, run=run: (ran.append(tuple(x.shape)), run(x))[1])
        output = forward_of(linear)(torch.empty(tokens, columns, device="meta"))
        assert output.shape == (tokens, rows)
    assert ran == [(2, 8), (2, 8), (3, 8)]
