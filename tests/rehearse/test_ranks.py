from pathlib import Path

from planner.job import Job
from planner.rehearse.ranks import heaviest
from planner.rehearse.run import ScriptWish, torchrun
from planner.units import MIB, human_bytes
from tests.rehearse.test_report import ENDED, TOLD, rehearsed, step


def test_the_report_is_that_of_the_rank_whose_card_takes_most(tmp_path: Path) -> None:
    plans = []
    for rank, peak in enumerate((300 * MIB, 700 * MIB, 500 * MIB)):
        (folder := tmp_path / str(rank)).mkdir()
        plans.append(rehearsed(folder, [step("load", 0, cpu=5000), step("compress", peak)], [4, peak], ENDED, *TOLD))
    plan = heaviest(plans)
    assert plan.gpu.peak_bytes == 700 * MIB
    assert plan.ranks is not None
    assert plan.ranks.simulated == 1
    assert plan.ranks.shared_bytes == 2000  # the model, once
    assert plan.ranks.all_bytes == 2000 + 3 * 3000
    assert f"rank 1 {human_bytes(700 * MIB)}" in plan.notes[-1].text


def test_each_process_is_told_what_torchrun_would_tell_it() -> None:
    wish = ScriptWish(script=Path("x.py"), arguments=(), job=Job(ranks=4), rank=2)
    told = torchrun(wish)
    assert (told["RANK"], told["LOCAL_RANK"], told["WORLD_SIZE"]) == ("2", "2", "4")
    assert "TORCHELASTIC_RUN_ID" in told
