"""What the shell around a command gets where streams, memory or patience give out: one line, and an exit code."""

import signal
import subprocess
import sys
import time

import pytest

from planner.commands.shell import first_cause, is_out_of_memory

PLANNER = f"{sys.executable} -m planner"
FULL = "planner: error: stdout: No space left on device; --output FILE writes elsewhere\n"
CLOSED = "planner: error: stdout: closed by the shell; --output FILE writes elsewhere\n"


def shell(command: str) -> tuple[int, str, str]:
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("command", ["recipes", "--help", "--version", "gpus --format json"])
@pytest.mark.parametrize(("redirection", "told"), [(">/dev/full", FULL), (">&-", CLOSED)])
def test_a_stdout_that_takes_nothing_is_one_line_and_exit_code_1(command: str, redirection: str, told: str) -> None:
    assert shell(f"{PLANNER} {command} {redirection}") == (1, "", told)


def test_a_closed_stdout_does_not_matter_where_the_result_goes_to_a_file() -> None:
    assert shell(f"{PLANNER} recipes --output /dev/null >&-") == (0, "", "")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_an_error_that_stderr_cannot_take_goes_to_stdout(redirection: str) -> None:
    code, out, _ = shell(f"{PLANNER} plan nope -r nope {redirection}")
    assert code == 2
    assert out.startswith("planner: error: ")
    assert out.count("\n") == 1


def test_an_error_that_nobody_can_take_is_an_exit_code() -> None:
    assert shell(f"{PLANNER} plan nope -r nope 2>&- >&-") == (2, "", "")


def test_no_file_becomes_stderr_where_stderr_is_closed() -> None:
    script = "import sys; from planner.commands.shell import open_streams as o; o(); print(open('/dev/null').fileno())"
    code, out, _ = shell(f'{sys.executable} -c "{script}" 2>&- <&-')
    assert (code, int(out) > 2) == (0, True)


@pytest.mark.parametrize("kilobytes", [50_000, 700_000])
def test_too_little_memory_for_the_libraries_is_one_line(kilobytes: int) -> None:
    code, out, err = shell(f"ulimit -v {kilobytes}; {PLANNER} plan llama-3-8b -r rtn_w4a16")
    assert (code > 0, out) == (True, "")
    assert err.startswith("planner: error: too little memory for the planner itself")
    assert err.count("\n") == 1


@pytest.mark.parametrize("seconds", [0.5, 1.5])
def test_ctrl_c_while_the_libraries_load_says_nothing(seconds: float) -> None:
    command = [sys.executable, "-m", "planner", "plan", "deepseek-r1", "-r", "gptq_w4a16"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def test_an_error_that_comes_from_a_lack_of_memory_is_known_by_its_cause() -> None:
    error = ImportError("no module named torch")
    error.__cause__ = OSError("libtorch.so: failed to map segment from shared object")
    assert first_cause(error, is_out_of_memory)
    assert not first_cause(ImportError("no module named torch"), is_out_of_memory)
