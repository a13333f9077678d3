"""planner gpus, planner machines, and the options of the machine that any command can take."""

import csv
import io
import json
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from planner.cli import main
from planner.commands.options import MachineFlags, make_machine, takes_job_options, takes_machine_options
from planner.errors import JobError
from planner.hardware import list_gpus
from planner.hardware.catalogues import read_catalogue
from planner.hardware.choice import machine_of
from planner.hardware.machines import find_machine, list_machines
from planner.units import GIB


def run(capsys: Any, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return str(capsys.readouterr().out)


def fail(capsys: Any, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return str(captured.err)


# ---------------------------------------------------------------------- planner gpus
def test_gpus_lists_every_card_with_units_in_the_head(capsys: Any) -> None:
    text = run(capsys, "gpus")
    assert all(gpu.name in text for gpu in list_gpus())
    head = text.splitlines()[0]
    assert all(title in head for title in ("CUDA GiB", "label GB", "sm", "bandwidth GB/s", "bf16 TFLOP/s"))
    (line,) = [line for line in text.splitlines() if line.startswith("H100 SXM")]
    assert line.split() == ["H100", "SXM", "79.10", "80", "90", "3,350", "990"]


def test_what_nobody_said_of_a_card_is_a_question_mark(capsys: Any) -> None:
    lines = {line[:4].strip(): line for line in run(capsys, "gpus").splitlines()}
    assert lines["T4"].split() == ["T4", "14.56", "16", "75", "320", "?"]


def test_gpus_in_json_have_bytes_and_sources(capsys: Any) -> None:
    listed = json.loads(run(capsys, "gpus", "--format", "json"))
    assert listed["schema_version"] == 1
    by_name = {gpu["name"]: gpu for gpu in listed["gpus"]}
    assert set(by_name) == {gpu.name for gpu in list_gpus()}
    assert by_name["L40S"]["memory_bytes"] == 45455 * 2**20
    assert "data sheet" in by_name["L40S"]["bf16_source"]


def test_gpus_in_markdown(capsys: Any) -> None:
    assert "| L40S | 44.39 |" in run(capsys, "gpus", "--format", "markdown")


# ---------------------------------------------------------------------- planner machines
def test_machines_lists_what_can_be_rented_with_units_in_the_head(capsys: Any) -> None:
    text = run(capsys, "machines")
    assert all((machine.name or "") in text for machine in list_machines())
    assert all(title in text.splitlines()[0] for title in ("CUDA GiB", "RAM GiB", "disk GB", "price/hour", "date"))
    (line,) = [line for line in text.splitlines() if line.startswith("p4d.24xlarge")]
    assert "8 x A100 40GB SXM" in line
    assert all(cell in line for cell in ("39.39", "1,152", "8,000", "21.96 USD", "us-east-1", "2026-07-20"))


def test_a_figure_that_nobody_said_is_a_question_mark(capsys: Any) -> None:
    (line,) = [line for line in run(capsys, "machines", "--cloud", "vast").splitlines() if line.startswith("1x_H100")]
    assert line.split().count("?") == 2


def test_machines_are_chosen_by_card_and_cloud(capsys: Any) -> None:
    chosen = json.loads(run(capsys, "machines", "--gpu", "l40s", "--cloud", "AWS", "--format", "json"))["machines"]
    assert chosen
    assert {(machine["gpu"], machine["cloud"]) for machine in chosen} == {("L40S", "aws")}
    everything = json.loads(run(capsys, "machines", "--format", "json"))["machines"]
    assert len(everything) == len(list_machines())
    assert all(machine["source"] and machine["date"] for machine in everything)


def test_a_users_catalogue_is_listed_beside_and_wins(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("name,gpu,price,currency,cloud\nbox,l4,0.5,EUR,\np4d.24xlarge,A100-SXM4-40GB,9,USD,aws\n", "utf-8")
    text = run(capsys, "machines", "--catalogue", str(path))
    assert "0.50 EUR" in text
    assert "9.00 USD" in text
    assert "21.96 USD" not in text


def test_what_was_left_out_of_a_catalogue_is_said_below_the_table(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "gpuhunt.csv"
    head = "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size\n"
    path.write_text(f"{head}a,r,1,4,16,0,,,False,\nb,r,1,4,16,1,Quokka,12,False,\n", encoding="utf-8")
    text = run(capsys, "machines", "--gpu", "quokka", "--catalogue", str(path))
    assert "1 row left out: without a GPU" in text
    assert "Quokka is not in the table of GPUs" in text
    markdown = run(capsys, "machines", "--gpu", "quokka", "--catalogue", str(path), "--format", "markdown")
    assert "1 row left out" in markdown


def test_the_csv_form_can_be_given_back_as_a_catalogue(capsys: Any, tmp_path: Path) -> None:
    text = run(capsys, "machines", "--format", "csv")
    assert len(list(csv.DictReader(io.StringIO(text)))) == len(list_machines())
    path = tmp_path / "again.csv"
    path.write_text(text, encoding="utf-8")
    unlisted = {"date", "cores"}
    again = [machine.model_dump(exclude=unlisted) for machine in read_catalogue(path).machines]
    assert again == [machine.model_dump(exclude=unlisted) for machine in list_machines()]


def test_mistakes_are_one_line_with_the_way_out(capsys: Any, tmp_path: Path) -> None:
    assert "unknown GPU 'l41'; the nearest names are L4" in fail(capsys, "machines", "--gpu", "l41")
    assert "--gpu p40: no machine of the catalogue has it; there are T4" in fail(capsys, "machines", "--gpu", "p40")
    assert "--cloud xx is unknown; there are aws" in fail(capsys, "machines", "--cloud", "xx")
    said = fail(capsys, "machines", "--cloud", "aws", "--gpu", "gh200")
    assert "--cloud aws has no machine with --gpu gh200; there are lambda" in said
    assert "No such file" in fail(capsys, "machines", "--catalogue", str(tmp_path / "no.csv"))


# ---------------------------------------------------------------------- the options of the machine
def app(seen: list[Any]) -> typer.Typer:
    """A command that takes a job's options and the machine's."""
    made = typer.Typer()

    @takes_machine_options()
    @takes_job_options("samples")
    def command(on: MachineFlags, options: dict[str, Any]) -> None:
        seen.append((make_machine(on), options))

    made.command()(command)
    return made


def test_a_command_takes_the_options_of_machine_and_job_together() -> None:
    seen: list[Any] = []
    words = ["--gpu", "l40s", "--gpus", "2", "--ram", "64GiB", "--disk", "1TB", "--samples", "7"]
    assert CliRunner().invoke(app(seen), words).exit_code == 0
    assert seen == [(machine_of(gpu="l40s", gpus=2, ram="64GiB", disk="1TB"), {"samples": 7})]


def test_a_machine_can_be_named_and_overridden() -> None:
    seen: list[Any] = []
    assert CliRunner().invoke(app(seen), ["--machine", "p5.48xlarge", "--ram", "100GiB"]).exit_code == 0
    machine, _ = seen[0]
    assert (machine.name, machine.ram_bytes) == ("p5.48xlarge", 100 * GIB)


def test_nothing_typed_is_a_machine_of_which_nothing_is_known() -> None:
    assert make_machine(MachineFlags()) == machine_of()


def test_the_options_stand_together_in_the_help() -> None:
    text = CliRunner().invoke(app([]), ["--help"], env={"COLUMNS": "100", "TERM": "dumb"}).output
    panel = text[text.index("The machine") :]
    for name in ("--gpu ", "--gpu-memory", "--gpus", "--ram", "--disk", "--machine", "--here", "--catalogue"):
        assert name in panel, name


def test_a_command_may_take_some_of_them() -> None:
    @takes_machine_options("gpu", "ram")
    def command(on: MachineFlags) -> None:
        raise AssertionError

    assert list(signature(command).parameters) == ["gpu", "ram"]


def test_every_option_reaches_the_machine() -> None:
    taken = set(signature(machine_of).parameters)
    assert {("catalogues" if name == "catalogue" else name) for name in get_type_hints(MachineFlags)} == taken


def test_a_catalogue_of_ones_own_may_be_named_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("name,gpu\nbox,l4\n", encoding="utf-8")
    assert make_machine(MachineFlags(machine="box", catalogue=[str(path)])).gpu == "L4"
    with pytest.raises(JobError, match="unknown machine 'box'"):
        make_machine(MachineFlags(machine="box"))
    assert find_machine("aws/p5.48xlarge", list_machines()).cloud == "aws"
