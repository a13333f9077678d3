from pathlib import Path

import pytest

from planner.errors import JobError, RehearseError
from planner.job import Job
from planner.rehearse.allocation import ALLOCATOR_VARIABLES, notes_on_rules, told_by_environment
from planner.rehearse.build import PretendedDriver
from planner.rehearse.run import ScriptWish, environment


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ALLOCATOR_VARIABLES)
def test_growing_segments_are_refused_in_either_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:64, expandable_segments:True")
    with pytest.raises(RehearseError, match=f"^{name}: expandable_segments:True: unset it"):
        told_by_environment(Job())


def test_growing_segments_are_refused_where_the_job_asks_for_them() -> None:
    with pytest.raises(RehearseError, match=r"^--alloc-conf: "):
        told_by_environment(Job(alloc_conf="expandable_segments:True"))


@pytest.mark.parametrize("name", ALLOCATOR_VARIABLES)
def test_other_settings_are_the_jobs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:64,expandable_segments:False")
    job = told_by_environment(Job())
    assert job.allocator_settings.max_split_size == 64 * 2**20
    wish = ScriptWish(script=Path("job.py"), arguments=(), job=job)
    child = environment(wish, PretendedDriver(folder=Path("/x")), Path("/y"))
    assert child["PYTORCH_ALLOC_CONF"] == job.alloc_conf
    assert "PYTORCH_CUDA_ALLOC_CONF" not in child


def test_what_the_job_says_counts_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    job = Job(alloc_conf="max_split_size_mb:64")
    assert told_by_environment(job) is job


def test_variables_that_differ_or_that_pytorch_refuses_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:65")
    with pytest.raises(RehearseError, match="differ"):
        told_by_environment(Job())
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size:65")
    with pytest.raises(JobError, match="no setting"):
        told_by_environment(Job())


@pytest.mark.parametrize(("own", "threads"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3")])
def test_what_is_computed_is_computed_by_one_thread_unless_the_user_says_another_number(
    own: dict[str, str], threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    wish = ScriptWish(script=Path("job.py"), arguments=(), job=Job())
    assert environment(wish, PretendedDriver(folder=Path("/x")), Path("/y"))["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize("version", ["2.9.1", "2.10.0+cu128", "2.11.0+cu130", "2.12.1"])
def test_a_torch_whose_allocator_chooses_otherwise_is_named(version: str) -> None:
    (note,) = notes_on_rules(version)
    assert note.text.startswith(f"torch {version} chooses among equal free blocks otherwise")


@pytest.mark.parametrize("version", ["2.13.0", "2.14.1+cu130", "2.15.0+cu132", "3.0.0", "main", None])
def test_a_torch_that_chooses_as_planner_does_needs_no_note(version: str | None) -> None:
    assert notes_on_rules(version) == []
