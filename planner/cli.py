"""The command line: parses, calls, prints, exits. It computes nothing and imports nothing heavy."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from planner.collector import collect_seldom
from planner.commands import (
    accuracy,
    bpw,
    compare,
    drift,
    explain,
    fit,
    formats,
    gpus,
    graph,
    machines,
    measure,
    model_free,
    models,
    plan,
    recipes,
    rehearse,
    rent,
    report,
    serve,
    strategies,
    train,
    ui,
)
from planner.commands.shell import (
    INTERRUPTS,
    TOO_LITTLE,
    StdoutError,
    discard_output,
    first_cause,
    is_out_of_memory,
    open_streams,
    tell,
)
from planner.commands.words import hint, spelled
from planner.errors import PlannerError

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended

# typer exports only the most specific of click's error classes; every usage error of both has this base.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]

EPILOG = """[bold]Examples[/bold]

planner plan llama-3-8b --recipe gptq_w4a16
planner compare deepseek-r1 --recipe rtn_fp8_dynamic --recipe gptq_w4a16
planner graph qwen2.5-vl-7b

[bold]Words[/bold] (more: docs/memory-words.md)

subgraph: what is on the GPU together, one decoder layer unless --sequential-targets says otherwise

calibrate, compress, propagate: the three steps of a subgraph; the last one runs it again, compressed, for the next

set by: the part of memory that takes most at the peak

binds: what the machine has least to spare of

moved: bytes copied to the GPU and back in the whole job

passes: how often the calibration data go through the model"""

app = typer.Typer(
    name="planner",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": spelled("")},
)
app.command(epilog=plan.EPILOG)(plan.plan)
app.command(epilog=rehearse.EPILOG, context_settings={"ignore_unknown_options": True})(rehearse.rehearse)
app.command(epilog=drift.EPILOG)(drift.drift)
app.command("model-free", epilog=model_free.EPILOG)(model_free.model_free)
app.command(epilog=fit.EPILOG)(fit.fit)
app.command(epilog=strategies.EPILOG)(strategies.strategies)
app.command(epilog=rent.EPILOG)(rent.rent)
app.command(epilog=compare.EPILOG)(compare.compare)
app.command(epilog=report.EPILOG)(report.report)
app.command(epilog=explain.EPILOG)(explain.explain)
app.command(epilog=graph.EPILOG)(graph.graph)
app.command(epilog=serve.EPILOG)(serve.serve)
app.command(epilog=formats.EPILOG)(formats.formats)
app.command(epilog=bpw.EPILOG)(bpw.bpw)
app.command(epilog=train.EPILOG)(train.train)
app.command(epilog=measure.EPILOG)(measure.measure)
app.command(epilog=accuracy.EPILOG)(accuracy.accuracy)
app.command(epilog=ui.EPILOG)(ui.ui)
app.command()(models.models)
app.command()(recipes.recipes)
app.command(epilog=gpus.EPILOG)(gpus.gpus)
app.command(epilog=machines.EPILOG)(machines.machines)


def _unwrapped(text: str) -> str:
    """Its paragraphs, a line each: the terminal wraps them, where typer would keep the source's line ends as well."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


for _command in app.registered_commands:
    _function: Any = _command.callback
    _command.help = _unwrapped(_function.__doc__ or "")
    _names = spelled(_command.name or _function.__name__)
    _command.context_settings = {**(_command.context_settings or {}), "token_normalize_func": _names}


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    from planner.upstream import LLMCOMPRESSOR_VERSION
    from planner.version import __version__

    typer.echo(f"planner {__version__}, models llmcompressor {LLMCOMPRESSOR_VERSION}")
    raise typer.Exit


@app.callback()
def planner(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar=" ", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Plan the CPU and GPU memory of an LLM Compressor job, step by step, without a GPU and without weights."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; every mistake of the user is one line on stderr."""
    try:
        code = app(args=arguments, prog_name="planner", standalone_mode=False)
    except PlannerError as error:
        return _fail(str(error), error.exit_code)
    except SystemExit as end:  # typer, when it has told the shell what to complete
        code = end.code
    except _UsageError as error:
        return _misused(error, sys.argv[1:] if arguments is None else arguments)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except StdoutError as error:
        return _unwritten(error)
    except Exception as error:
        if INTERRUPTS.came:
            return INTERRUPTED
        if first_cause(error, is_out_of_memory):
            return _fail(TOO_LITTLE, 1)
        raise
    return code if isinstance(code, int) else 0


def run() -> NoReturn:
    """Entry point of the `planner` command: run `main`, and end the process as soon as the output is written."""
    collect_seldom()
    open_streams()
    INTERRUPTS.listen()
    code = main()
    try:
        sys.stdout.flush()
    except StdoutError as error:
        code = code or _unwritten(error)
    os._exit(code)  # unloading torch would take another second, and nothing is left to write


def _fail(message: str, code: int) -> int:
    tell(message)
    return code


def _misused(error: Any, arguments: Sequence[str]) -> int:
    """One line for an option or argument that is missing, unknown or unreadable."""
    message = error.format_message().rstrip(".")
    if not message:  # `planner` alone: typer has shown the help already
        return 2
    message = _meant(error) or f"{message}{_lists(error)}"
    for noise in ("Value error, ", "Input "):  # pydantic's, through which newer typer reads values
        message = message.replace(noise, "")
    context = getattr(error, "ctx", None)
    return _fail(f"{message} (see {context.command_path if context else _command_path(arguments)} --help)", 2)


def _lists(error: Any) -> str:
    """Which command lists what may stand for something that is missing."""
    is_missing = type(error).__name__ == "MissingParameter"  # click's, or the copy of it in typer
    name = str(error.param.name) if is_missing and error.param else ""
    listing = {"model": "models", "recipe": "recipes"}.get(name, "")
    return f"; `planner {listing}` lists what ships" if listing else ""


def _command_path(arguments: Sequence[str]) -> str:
    """The command that was called, for errors of click's that do not say it."""
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    return f"planner {arguments[0]}" if arguments and arguments[0] in names else "planner"


def _meant(error: Any) -> str:
    """The message for an option that another tool has; empty for every other mistake."""
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    known = hint(context.info_name, option) if option and context and "No such option" in error.message else ""
    return f"No such option: {option}; {known}" if known else ""


def _unwritten(error: StdoutError) -> int:
    discard_output()
    if error.errno == errno.EPIPE:
        return 0  # `planner ... | head`: the reader has what it wanted
    return _fail(f"stdout: {error.strerror}; --output FILE writes elsewhere", 1)
