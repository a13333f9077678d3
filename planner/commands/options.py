"""Options that several sub-commands have, and how a command gets them; those of a job come from `planner.fields`.

No pydantic and no torch here, so that `planner --help` stays fast.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from planner.commands import completion
from planner.fields import JOB_FIELDS, MACHINE, PlanMethod
from planner.job_field import JobField
from planner.reports.forms import OutputFormat, StepsShown

if TYPE_CHECKING:
    from planner.hardware.machine import Machine

RESULT = "The result"

FLAG = " "  # a flag takes no value; typer would call it <bool>

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        autocompletion=completion.models,
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
    typer.Option(
        "--steps",
        help="folded: one line per kind of step, with its highest. distinct: one per distinct step. all: every step.",
        rich_help_panel=RESULT,
    ),
]
MethodOption = Annotated[
    PlanMethod,
    typer.Option(
        "--method",
        help="simulate walks the job step by step; rule-of-thumb is LLM Compressor's documented rule.",
        rich_help_panel=RESULT,
    ),
]
RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        show_default=False,
        autocompletion=completion.recipes,
        help="A shipped recipe (see `planner recipes`), a recipe file that LLM Compressor accepts, or - for stdin.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="MODIFIER.FIELD=VALUE",
        show_default=False,
        help="A field of the recipe's modifiers instead of its own, like GPTQModifier.block_size=64. May be repeated.",
    ),
]
CatalogueOption = Annotated[
    list[str] | None,
    typer.Option(
        "--catalogue",
        metavar="FILE|FOLDER",
        show_default=False,
        help="Machines of your own beside those that are shipped: SkyPilot's vms.csv or catalogs/v8, a file of "
        "gpuhunt, or a CSV table with columns name and gpu (docs/machines.md). May be repeated.",
        rich_help_panel=MACHINE,
    ),
]

CheckOption = Annotated[
    bool, typer.Option("--check", metavar=FLAG, help="Exit with code 1 for a no, for CI.", rich_help_panel=RESULT)
]

BESIDE_MACHINE = tuple(field.name for field in JOB_FIELDS if field.name not in ("gpu", "gpu_memory_bytes"))
"""Fields of the job whose options do not say the machine."""

JobOptions = Mapping[str, Any]
"""The job as typed: what the command line parsed, by the name of the job's field."""


def gpu_memory_option(panel: str) -> Any:
    """`--gpu-memory`, the other name of `--gpu`, in this panel of the help."""
    text = "The same as --gpu, for a size."
    return typer.Option("--gpu-memory", metavar="SIZE", show_default=False, help=text, rich_help_panel=panel)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFlags:
    """The machine as typed, one field per option, in the order of `--help`: the same words in every command."""

    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME|SIZE",
            show_default=False,
            autocompletion=completion.gpus,
            help="The card: its name (`planner gpus`), for the memory that CUDA has of it, or a size, like 24GiB (2^30 "
            "bytes) or 24GB (10^9 bytes).",
            rich_help_panel=MACHINE,
        ),
    ] = None
    gpu_memory: Annotated[str | None, gpu_memory_option(MACHINE)] = None
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus",
            metavar="N",
            show_default=False,
            help="Number of such cards. Default: 1, or those of the machine.",
            rich_help_panel=MACHINE,
        ),
    ] = None
    ram: Annotated[
        str | None,
        typer.Option(
            "--ram",
            metavar="SIZE",
            show_default=False,
            help="RAM of the machine, like 128GiB or 128GB.",
            rich_help_panel=MACHINE,
        ),
    ] = None
    disk: Annotated[
        str | None,
        typer.Option(
            "--disk",
            metavar="SIZE",
            show_default=False,
            help="Free space on its local disk, like 1TB or 500GiB.",
            rich_help_panel=MACHINE,
        ),
    ] = None
    machine: Annotated[
        str | None,
        typer.Option(
            "--machine",
            metavar="NAME",
            show_default=False,
            autocompletion=completion.machines,
            help="A machine that can be rented (`planner machines`), like p5.48xlarge. The options above override it.",
            rich_help_panel=MACHINE,
        ),
    ] = None
    here: Annotated[
        bool,
        typer.Option(
            "--here",
            metavar=FLAG,
            help="The machine that this runs on. The options above override what is found.",
            rich_help_panel=MACHINE,
        ),
    ] = False
    catalogue: CatalogueOption = None


def make_machine(options: MachineFlags) -> "Machine":
    """The machine that the options name together. Raises JobError of one line where they make no sense."""
    from planner.hardware.choice import machine_of

    return machine_of(
        gpu=options.gpu,
        gpu_memory=options.gpu_memory,
        gpus=options.gpus,
        ram=options.ram,
        disk=options.disk,
        machine=options.machine,
        here=options.here,
        catalogues=options.catalogue or (),
    )


MachineNameOption = Annotated[
    str | None,
    typer.Option(
        "--machine",
        metavar="NAME",
        show_default=False,
        autocompletion=completion.machines,
        help="A machine that can be rented (`planner machines`): its cards. The options above override it.",
        rich_help_panel=MACHINE,
    ),
]
HereOption = Annotated[
    bool,
    typer.Option(
        "--here",
        metavar=FLAG,
        help="The cards of the machine that this runs on. The options above override what is found.",
        rich_help_panel=MACHINE,
    ),
]


def cards_of(options: MachineFlags) -> "tuple[str | None, int]":
    """The card as `--gpu` would name it, and how many, of the machine that the options name together.

    Raises JobError of one line where they make no sense, and for a machine without a card.
    """
    from planner.hardware import agreed_gpu, named_gpu

    if options.machine is None and not options.here:
        return agreed_gpu(options.gpu, options.gpu_memory), 1 if options.gpus is None else options.gpus
    found = make_machine(options)
    size, known = found.card_bytes(), named_gpu(found.gpu) if found.gpu else None
    is_known = known is not None and known.memory_bytes == size
    return found.gpu if is_known else f"{size} B", found.gpus


def takes_machine_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options of the machine (default: all). It gets them as one record, `on`, for make_machine.

    It may stand above the decorator of a job's options, if that one then leaves out what is said here.
    """
    chosen = names or tuple(item.name for item in fields(MachineFlags))
    return _takes([_field_parameter(MachineFlags, name) for name in chosen], MachineFlags, place="on")


def takes_job_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these fields of a job (default: all). It gets their values as one `options`."""
    chosen = [field for field in JOB_FIELDS if not names or field.name in names]
    return _takes([_option(field) for field in chosen], dict)


def takes_options(kind: type[Any], *names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these fields of a dataclass (default: all) as options. It gets them as one record, `options`."""
    chosen = names or tuple(item.name for item in fields(kind))
    return _takes([_field_parameter(kind, name) for name in chosen], kind)


def _takes(
    added: Sequence[inspect.Parameter], record: Callable[..., Any], place: str = "options"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameter of this name by these parameters; the command gets their values as one record.

    typer reads a function's signature. Writing twenty parameters once per sub-command would let the
    sub-commands drift apart, so the signature is built here from one list.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def with_options(**values: Any) -> None:  # what typer parsed, by parameter name
            command(**{place: record(**{each.name: values.pop(each.name) for each in added})}, **values)

        parameters = list(_parameters(command, added, place))
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        with_options.__doc__, with_options.__name__ = command.__doc__, command.__name__
        return with_options

    return decorate


def _parameters(
    command: Callable[..., None], added: Sequence[inspect.Parameter], place: str
) -> Iterator[inspect.Parameter]:
    """The command's own parameters as keyword-only, and the added ones in the place of that of this name."""
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == place:
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
