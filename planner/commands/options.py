"""Options that several sub-commands have, and how a command gets them; those of a job come from `planner.fields`.

No pydantic and no torch here, so that `planner --help` stays fast.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Annotated, Any, get_type_hints

import typer

from planner.fields import JOB_FIELDS, JobField, PlanMethod
from planner.reports.forms import OutputFormat, StepsShown

RESULT = "The result"

FLAG = " "  # a flag takes no value; typer would call it <bool>

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A preset (see `planner models`), a config.json or a folder holding one, or a Hugging Face Hub id. "
        "Only the config is read, never the weights.",
    ),
]
FormatOption = Annotated[
    OutputFormat,
    typer.Option("--format", help="table to read, json for programs, markdown to paste.", rich_help_panel=RESULT),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the result here instead of to stdout.", rich_help_panel=RESULT
    ),
]
StepsOption = Annotated[
    StepsShown,
    typer.Option("--steps", help="folded: one line per distinct step. all: every step.", rich_help_panel=RESULT),
]
MethodOption = Annotated[
    PlanMethod,
    typer.Option(
        "--method",
        help="simulate walks the job step by step; rule-of-thumb is LLM Compressor's documented rule.",
        rich_help_panel=RESULT,
    ),
]


JobOptions = Mapping[str, Any]
"""The job as typed: what the command line parsed, by the name of the job's field."""


def gpu_memory_option(panel: str) -> Any:
    """`--gpu-memory`, the other name of `--gpu`, in this panel of the help."""
    text = "The same as --gpu, for a size."
    return typer.Option("--gpu-memory", metavar="SIZE", show_default=False, help=text, rich_help_panel=panel)


def takes_job_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these fields of a job (default: all). It gets their values as one `options`."""
    chosen = [field for field in JOB_FIELDS if not names or field.name in names]
    return _takes([_option(field) for field in chosen], dict)


def takes_options(kind: type[Any], *names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these fields of a dataclass (default: all) as options. It gets them as one record, `options`."""
    chosen = names or tuple(item.name for item in fields(kind))
    return _takes([_field_parameter(kind, name) for name in chosen], kind)


def _takes(
    added: Sequence[inspect.Parameter], record: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameter `options` by these parameters; the command gets their values as one record.

    typer reads a function's signature. Writing twenty parameters once per sub-command would let the
    sub-commands drift apart, so the signature is built here from one list.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def with_options(**values: Any) -> None:  # what typer parsed, by parameter name
            command(options=record(**{each.name: values.pop(each.name) for each in added}), **values)

        parameters = list(_parameters(command, added))
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        with_options.__doc__, with_options.__name__ = command.__doc__, command.__name__
        return with_options

    return decorate


def _parameters(command: Callable[..., None], added: Sequence[inspect.Parameter]) -> Iterator[inspect.Parameter]:
    """The command's own parameters as keyword-only, and the added ones in the place of `options`."""
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == "options":
            yield from added
        else:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _option(field: JobField) -> inspect.Parameter:
    """The option of a job's field, as typer reads it."""
    metavar = FLAG if field.is_flag else field.metavar
    option = typer.Option(field.option, metavar=metavar, help=field.help, rich_help_panel=field.panel)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.typed_default,
        annotation=Annotated[field.typed, option],
    )


def _field_parameter(kind: type[Any], name: str) -> inspect.Parameter:
    annotation = get_type_hints(kind, include_extras=True)[name]
    item = next(item for item in fields(kind) if item.name == name)
    default = item.default if item.default_factory is MISSING else item.default_factory()
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
