"""What the library's tracer wraps, seen while it runs, and the numbers that its graph makes."""

import torch

from planner.models.pieces import Pieces, RunningPiece
from planner.models.sides import makers, with_sides
from planner.models.wrapping import forwards, items_passed_in_loops


class Asked(torch.nn.Module):
    """Its forward has an `if` that runs, and one that does not."""

    def forward(self, hidden: int, cache: object | None = None) -> int:
        kept = hidden
        self.ask("before")
        if hidden > 0:
            hidden = self.ask("inside")
        self.ask("between")
        if cache is not None:
            kept, hidden = hidden, kept
        self.ask("after")
        return kept

    def ask(self, word: str) -> int:
        self.over[word] = [(piece.source.is_call, piece.passed(), piece.returned()) for piece in PIECES.passed_over()]
        self.running[word] = PIECES.running()
        return 7


ASKED = Asked()
PIECES = Pieces([ASKED])


def asked() -> tuple[dict[str, list[object]], dict[str, RunningPiece | None]]:
    ASKED.over, ASKED.running = {}, {}
    ASKED.forward(3)
    return ASKED.over, ASKED.running


def test_an_if_that_depends_on_its_arguments_is_a_piece_while_it_runs() -> None:
    _, running = asked()
    assert {word for word, piece in running.items() if piece} == {"inside"}
    piece = running["inside"]
    assert piece
    assert (piece.source.names >= {"hidden"}, piece.source.assigned, piece.source.is_call) == (True, {"hidden"}, False)


def test_an_if_that_calls_nothing_was_passed_over_and_returns_what_its_names_stand_for() -> None:
    over, _ = asked()
    assert {word: len(pieces) for word, pieces in over.items()} == {"before": 0, "inside": 0, "between": 0, "after": 1}
    assert over["after"] == [(False, [None, 7, 3], [7, 3])]  # cache, hidden, kept; hidden, kept


def test_each_run_of_a_forward_passes_over_its_own_pieces() -> None:
    assert asked()[0] == asked()[0]


def test_what_is_not_in_a_traced_forward_runs_in_no_piece() -> None:
    assert PIECES.running() is None
    assert list(PIECES.passed_over()) == []


class Layers(torch.nn.Module):
    """Passes items of a dictionary, and whole values."""

    def forward(self, hidden: int, masks: dict[str, int], kinds: list[str], positions: int) -> int:
        for layer in self.children():
            hidden = layer(hidden, masks[kinds[0]], positions=positions, mask=masks["full"])
        return hidden


def test_items_are_told_from_values_by_place_and_keyword() -> None:
    (forward,) = forwards([Layers()])
    assert items_passed_in_loops(forward) == {1, "mask"}


def test_a_side_of_a_shape_knows_the_node_that_makes_it() -> None:
    shape = with_sides(torch.Size([2, 3]), first=6)
    assert shape == (2, 3)
    assert list(makers(((shape[1], -1), {"size": shape, "part": shape[:1]}))) == [7, 6, 7, 6]
    assert list(makers((shape[1] * 2, torch.Size([2, 3])))) == []
