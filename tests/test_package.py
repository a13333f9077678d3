"""The wheel is whole: what the checkout has is in it, and a fresh environment plans with it from another folder."""

import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

import planner

ROOT = Path(__file__).parent.parent
INFO = f"compression_planner-{planner.__version__}.dist-info"


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `pip install .` builds it, without its download of hatchling (extra `dev`)."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def files(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel) as archive:
        yield archive


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, which borrows this one's libraries: the folder of its commands."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv")
    commands = folder / "venv" / "bin"
    here = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(commands / "python", "-c", here, cwd=folder).strip())
    run(sys.executable, "-m", "pip", "--python", commands / "python", "install", "-q", "--no-index", "--no-deps", wheel)
    # A folder that a .pth file names does not have its own .pth files read: the checkout stays out of sight.
    borrowed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return commands


def test_every_file_of_the_package_and_every_recipe_is_in_the_wheel(files: zipfile.ZipFile) -> None:
    package = [path for path in (ROOT / "planner").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    shipped = {str(path.relative_to(ROOT)) for path in package}
    recipes = {f"planner/recipes/{path.name}" for path in (ROOT / "recipes").iterdir()}
    assert {"planner/py.typed", "planner/recipes/gptq_w4a16.yaml"} <= shipped | recipes
    assert {name for name in files.namelist() if not name.startswith(INFO)} == shipped | recipes


def test_the_licence_is_in_the_wheel_and_named_in_its_metadata(files: zipfile.ZipFile) -> None:
    metadata = message_from_bytes(files.read(f"{INFO}/METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    text = files.read(f"{INFO}/licenses/LICENSE").decode()
    assert text == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_version_stands_in_one_place(files: zipfile.ZipFile, elsewhere: Path, tmp_path: Path) -> None:
    assert message_from_bytes(files.read(f"{INFO}/METADATA"))["Version"] == planner.__version__
    assert run(elsewhere / "planner", "--version", cwd=tmp_path).startswith(f"planner {planner.__version__}, ")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" in project["dynamic"]
    assert "version" not in project


def test_an_installed_planner_plans_a_shipped_recipe_from_another_folder(elsewhere: Path, tmp_path: Path) -> None:
    job = ("qwen3-0.6b", "-r", "rtn_w4a16", "--layers", "1", "--format", "json")
    plan = json.loads(run(elsewhere / "planner", "plan", *job, cwd=tmp_path))
    assert plan["recipe"] == "rtn_w4a16"
    assert plan["cpu"]["peak_bytes"] > 0
    where = run(elsewhere / "python", "-c", "import planner; print(planner.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(elsewhere.parent)
    assert list(tmp_path.iterdir()) == []
