"""Which card a Linear is trained on, and what lies where when a layer is spread over several."""

import pytest
import torch

from planner.errors import JobError
from planner.models.autograd import MeanSquare, TrainingRecorder, moved
from planner.models.built import BuiltModel
from planner.models.cards import PlacedLinear, cards_of_linears
from planner.models.joined import REDUCED, buckets_of
from planner.models.load import graph_of
from planner.models.recorder import NoListener
from planner.models.tuned import OnlineRotation, Spread, TunedBlock, TuningRequest, card_peaks
from planner.models.tuned_linear import stays, there
from planner.units import GIB, MIB
from tests.models.test_tuning import INT4, JOB, NAMES, built

__all__ = ["built"]

LLAMA = {"q": 4096, "k": 1024, "v": 1024, "o": 4096, "gate": 14336, "up": 14336, "down": 4096}
CARD = 85_520_809_984


def llama(*, quantizes_inputs: bool = False) -> list[PlacedLinear]:
    inputs = {name: 14336 if name == "down" else 4096 for name in LLAMA}
    return [
        PlacedLinear(
            name=name,
            bytes=2 * inputs[name] * rows,
            inputs=inputs[name],
            outputs=rows,
            quantizes_inputs=quantizes_inputs,
        )
        for name, rows in LLAMA.items()
    ]


def dealt(cards: int, *, quantizes_inputs: bool = False, card: int = CARD) -> str:
    spread = Spread(gpus=tuple(range(cards)), card_bytes=card, samples=8, batch=8)
    found = cards_of_linears(llama(quantizes_inputs=quantizes_inputs), spread, 512, 512 * 4096 * 2, 2)
    return "".join(str(found[name]) for name in LLAMA)


def test_linears_of_llama_are_dealt_as_auto_round_deals_them() -> None:
    """What its log says ("Auto device map for block"), of Llama-3-8B with 8 samples of 512 tokens."""
    assert dealt(2, quantizes_inputs=True) == "1011001"
    assert dealt(2) == "0000101"
    assert dealt(4) == "0000123"


def test_a_first_card_that_is_nearly_full_gets_less() -> None:
    assert dealt(2, card=3 * GIB).count("0") < dealt(2, card=80 * GIB).count("0")


def test_cards_have_the_numbers_by_which_they_are_named() -> None:
    spread = Spread(gpus=(0, 3, 1), card_bytes=CARD, samples=8, batch=8)
    found = cards_of_linears(llama(), spread, 512, 512 * 4096 * 2, 2)
    assert "".join(str(found[name]) for name in LLAMA) == dealt(3).replace("1", "3").replace("2", "1")


def test_no_linear_needs_no_card() -> None:
    assert cards_of_linears([], Spread(gpus=(0, 1), card_bytes=CARD, samples=1, batch=1), 1, 1, 2) == {}


# ---------------------------------------------------------------------- what lies where
def test_what_is_computed_of_a_tensor_lies_on_its_card_and_gradients_come_back() -> None:
    recorder = TrainingRecorder(0, NoListener())
    with recorder:
        recorder.begin()
        first = torch.empty(4, 4, device="meta", requires_grad=True)
        there = moved(first, 1, recorder)
        result = moved(there * 2, 0, recorder)
        cards = [recorder.card_of(tensor) for tensor in (first, there, result)]
        result.sum().backward()
        assert first.grad is not None
        assert recorder.card_of(first.grad) == 0
    assert cards == [0, 1, 0]
    assert [e.card for e in recorder.events if e.operator == "mul"] == [1, 1], "forward and back"


def test_a_tensor_that_is_there_is_not_copied() -> None:
    recorder = TrainingRecorder(0, NoListener())
    with recorder:
        recorder.begin()
        tensor = torch.empty(4, device="meta")
        assert moved(tensor, 0, recorder) is tensor


def test_what_a_cuda_build_takes_alone_lies_on_the_card_of_what_it_is_made_of() -> None:
    recorder = TrainingRecorder(0, NoListener())
    with recorder:
        recorder.begin()
        there = moved(torch.empty(4, 4, device="meta"), 1, recorder)
        MeanSquare.apply(there, torch.empty_like(there), recorder)
    (only,) = (event for event in recorder.events if event.operator == "mse_loss")
    assert only.card == 1


def test_a_card_inside_another_gives_way_to_it_again() -> None:
    recorder = TrainingRecorder(0, NoListener())
    with recorder:
        recorder.begin()
        with recorder.on_card(2):
            with recorder.on_card(1):
                inner = torch.empty(4, device="meta")
            outer = torch.empty(4, device="meta")
        after = torch.empty(4, device="meta")
        assert [recorder.card_of(tensor) for tensor in (inner, outer, after)] == [1, 2, 0]


@pytest.mark.parametrize("names", [(), ("input",)])
def test_a_linear_on_its_card_takes_its_input_by_place_or_by_name(names: tuple[str, ...]) -> None:
    linear, given = torch.nn.Linear(4, 8, device="meta"), torch.empty(2, 4, device="meta")
    forward = there(linear, 1, stays)
    assert forward(*(() if names else (given,)), **dict.fromkeys(names, given)).shape == (2, 8)


def spread(
    built: BuiltModel, cards: int, rotations: tuple[OnlineRotation, ...] = (), *, has_ranks: bool = False
) -> TunedBlock:
    request = TuningRequest(
        layer="model.layers.1",
        linears=tuple((name, INT4) for name in NAMES),
        rows=8,
        last_rows=2,
        trained=(8,),
        spread=Spread(gpus=tuple(range(cards)), card_bytes=80 * GIB, samples=10, batch=8) if cards > 1 else None,
        rotations=rotations,
        has_ranks=has_ranks,
    )
    graph = graph_of(built, JOB)
    assert graph.tune is not None
    return graph.tune(request)


def test_weights_and_all_that_is_made_of_them_are_on_the_linears_card(built: BuiltModel) -> None:
    block = spread(built, 3)
    assert set(block.cards) == {0, 1, 2}
    assert len(block.cards) == len(block.weights)
    assert all(block.cards[number] == 0 for number in range(len(block.cards)) if number not in block.placed)
    products = {event.card for event in block.iteration if event.kind == "product"}
    assert products == {0, 1, 2}
    assert {event.operator for event in block.iteration if event.kind == "product"} == {"", "backward"}


def test_spreading_a_layer_moves_memory_off_the_first_card_and_adds_copies(built: BuiltModel) -> None:
    alone, several = card_peaks(spread(built, 1)), card_peaks(spread(built, 2))
    assert set(alone) == {0}
    assert set(several) == {0, 1}
    weights = sum(spread(built, 1).weights)
    assert several[0] < alone[0] + weights
    assert sum(several.values()) > alone[0]


def test_a_linear_with_a_transform_inside_stops_the_library(built: BuiltModel) -> None:
    rotation = OnlineRotation(name="u", module=".mlp.up_proj", place="input", size=64, label="u matrix of 64")
    spread(built, 1, (rotation,))
    with pytest.raises(JobError, match=r"up_proj: LLM Compressor stops here"):
        spread(built, 2, (rotation,))


# ---------------------------------------------------------------------- ranks
def test_ranks_have_a_copy_of_every_gradient_until_the_layer_is_done(built: BuiltModel) -> None:
    alone, together = spread(built, 1), spread(built, 1, has_ranks=True)
    more = card_peaks(together)[0] - card_peaks(alone)[0]
    numbers = 3 * len(NAMES) * 4
    assert more == sum(alone.trained) + numbers
    assert together.kept and len(together.kept) == len(alone.kept)


def test_buckets_are_filled_type_by_type_and_close_when_they_are_full() -> None:
    sizes = (3 * MIB, MIB, 20 * MIB, 4 * MIB, 30 * MIB, MIB)
    tensors = [torch.empty(size // 4, device="meta") for size in sizes]
    tensors.insert(1, torch.empty(8, dtype=torch.bfloat16, device="meta"))
    buckets = buckets_of(tensors, REDUCED)
    found = [[tensor.numel() * tensor.element_size() // MIB for tensor in bucket] for bucket in buckets]
    assert found == [[3], [0], [1, 20, 4], [30], [1]]
