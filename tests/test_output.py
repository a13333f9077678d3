"""Where results are written."""

import os
import stat
from pathlib import Path

import pytest

from planner.commands.output import check_output, write_result
from planner.errors import OutputError


def test_a_new_file_has_ordinary_permissions_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("before")
    old.chmod(0o640)
    for path in (new, old):
        write_result("after", str(path))
        assert path.read_text() == "after"
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert stat.S_IMODE(new.stat().st_mode) & 0o600 == 0o600
    assert stat.S_IMODE(new.stat().st_mode) & 0o111 == 0


def test_output_through_a_link_replaces_the_file_and_keeps_the_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    write_result("after", str(link))
    assert link.is_symlink()
    assert target.read_text() == "after"


def test_a_device_is_written_to_and_not_replaced() -> None:
    check_output(os.devnull)
    write_result("text", os.devnull)
    assert not Path(os.devnull).is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission"):
        check_output(str(tmp_path / "plan.json"))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_behind_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    target = tmp_path / "plan.json"
    target.write_text("before")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_result("after", str(target))
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text() == "before"
