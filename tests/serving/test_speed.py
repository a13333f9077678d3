from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.serving.speed import bytes_read, experts_read, speed, word_for
from planner.serving.split import Held
from tests.serving.served import HIDDEN, model, stored

GB = 10**9


def test_every_matrix_is_read_once_and_one_row_of_the_embedding_per_sequence() -> None:
    served = model()
    held = [
        Held(stored=tensor, bytes=tensor.gpu_bytes, rows=tensor.weight.unit == "embedding")
        for tensor in stored(served).tensors
    ]
    rest = sum(2 * w.elements for w in served.weights if w.unit != "embedding")
    assert bytes_read(held, served, 1) == rest + 2 * HIDDEN
    assert bytes_read(held, served, 7) == rest + 7 * 2 * HIDDEN


def test_one_token_reads_the_chosen_experts_alone() -> None:
    assert experts_read(model(experts=128, chosen=8), 1) == pytest.approx(1 / 16)
    assert experts_read(model(), 1) == 1


def test_two_tokens_read_fewer_than_twice_the_experts_because_they_share_some() -> None:
    served = model(experts=8, chosen=2)
    assert experts_read(served, 2) == pytest.approx(1 - (6 / 8) ** 2)


@given(experts=st.integers(1, 512), chosen=st.integers(1, 16), batch=st.integers(1, 2000))
def test_more_sequences_never_read_fewer_experts_and_never_more_than_all(experts: int, chosen: int, batch: int) -> None:
    served = model(experts=experts, chosen=min(chosen, experts))
    assert Fraction(min(chosen, experts), experts) * Fraction(999_999, 10**6) <= experts_read(served, batch)
    assert experts_read(served, batch) <= experts_read(served, batch + 1) <= 1


def test_gpus_that_work_together_are_as_fast_as_the_slowest() -> None:
    ceiling = speed([10 * GB, 8 * GB], 0, 1, bandwidth=1000 * GB, cpu_bandwidth=50 * GB, together=True)
    assert ceiling is not None
    assert ceiling.tokens_per_second_per_user == pytest.approx(100)


def test_gpus_that_work_one_after_the_other_add_their_times() -> None:
    ceiling = speed([10 * GB, 10 * GB], 0, 4, bandwidth=1000 * GB, cpu_bandwidth=50 * GB, together=False)
    assert ceiling is not None
    assert ceiling.tokens_per_second_per_user == pytest.approx(50)
    assert ceiling.tokens_per_second == pytest.approx(200)


def test_what_the_cpu_reads_takes_its_own_time() -> None:
    ceiling = speed([10 * GB], 5 * GB, 1, bandwidth=1000 * GB, cpu_bandwidth=50 * GB, together=False)
    assert ceiling is not None
    assert ceiling.seconds_per_step == pytest.approx(0.11)


def test_without_bandwidth_there_is_no_speed_unless_the_gpu_reads_nothing() -> None:
    assert speed([1], 0, 1, bandwidth=None, cpu_bandwidth=50 * GB, together=False) is None
    alone = speed([0], 5 * GB, 1, bandwidth=None, cpu_bandwidth=50 * GB, together=False)
    assert alone is not None
    assert alone.tokens_per_second_per_user == pytest.approx(10)


@pytest.mark.parametrize(
    ("rate", "word"),
    [(9.9, "too slow for a conversation"), (10, "readable"), (20, "readable"), (20.1, "smooth")],
)
def test_a_reader_feels_three_kinds_of_speed(rate: float, word: str) -> None:
    assert word_for(rate) == word
