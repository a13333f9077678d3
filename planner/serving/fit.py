"""One model in every format, and the most bits per weight that fit a GPU: each model is built once."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from planner.errors import JobError, PlannerError, UnsupportedError
from planner.formats.mixed import MixturePart, Upgrade, allocate, mixed_model
from planner.formats.registry import Format, all_formats
from planner.formats.served_model import ServedModel
from planner.hints import did_you_mean
from planner.serving.activations import Activations
from planner.serving.bit_budget import (
    average_format,
    budget_of,
    failed_row,
    format_row,
    make_ladder,
    mixture_of,
    most_bits,
    nearest_below,
    sorted_rows,
)
from planner.serving.engines import ENGINES
from planner.serving.fit_schema import BitsPlan, FormatRow, FormatTable
from planner.serving.schema import MAX_CONTEXT, ServeOptions, Serving
from planner.serving.search import Squeezed
from planner.serving.serve import size, size_stored

Say = Callable[[str], None]

ORDER_NOTE = (
    "Who keeps more bits is an order of thumb, after llama.cpp's mixtures, no measurement. How many bits fit does not "
    "depend on it."
)
FULL_NOTE = "Every quantizable tensor has the largest choice: memory is left over."


def formats(
    model: str, options: ServeOptions, families: Sequence[str] = (), progress: Say = lambda _: None
) -> FormatTable:
    """Every format of these families, or of all, for a preset, config.json, folder or Hub id.

    A format that cannot hold the model is a row with its reason. Raises ModelError or UnsupportedError for the
    model, JobError for options without meaning.
    """
    chosen = formats_of(families)
    from planner.serving.model import load_served

    progress(f"building {model} without weights")
    served, activations = load_served(model, options.dtype)
    return size_all(served, activations, chosen, options, progress)


def formats_of(families: Sequence[str]) -> tuple[Format, ...]:
    """The formats of these families; of all without one. Raises JobError for an unknown family."""
    known = tuple(dict.fromkeys(weight_format.family for weight_format in all_formats()))
    for name in families:
        if name not in known:
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise JobError(f"--family {name!r}: unknown{hint}")
    return tuple(weight_format for weight_format in all_formats() if not families or weight_format.family in families)


def size_all(
    served: ServedModel,
    activations: Activations,
    chosen: Sequence[Format],
    options: ServeOptions,
    progress: Say = lambda _: None,
) -> FormatTable:
    """A table of these formats for a model that is built already. Pure."""
    shared = _Shared(activations, served.max_positions or MAX_CONTEXT)
    rows: list[FormatRow] = []
    sized: Serving | None = None
    failed: PlannerError | None = None
    for weight_format in chosen:
        progress(f"{served.name} as {weight_format.name}")
        try:
            sized = size(served, shared, weight_format, options)
            rows.append(format_row(weight_format, sized))
        except PlannerError as error:
            failed = error
            rows.append(failed_row(weight_format, error))
    if sized is None:
        raise failed or JobError("no format is asked for")
    return FormatTable(
        model=sized.model,
        options=options,
        context=sized.context,
        batch=sized.batch,
        gpu=sized.gpu,
        formats=sorted_rows(rows),
    )


def bits(model: str, options: ServeOptions, choices: str | None = None, progress: Say = lambda _: None) -> BitsPlan:
    """The most bits per weight of this model that fit one GPU, and a mixture that uses them.

    Raises JobError where not even the smallest choice fits, ModelError or UnsupportedError for the model.
    """
    if options.gpu is None:
        raise JobError("give the GPU whose memory is to be filled: --gpu rtx4090, or --gpu 24GiB")
    if options.gpus > 1 or options.gpu_layers is not None:
        raise UnsupportedError("bits per weight are found for one GPU that holds the whole model")
    from planner.serving.model import load_served

    progress(f"building {model} without weights")
    served, activations = load_served(model, options.dtype)
    return fill(served, activations, options, choices, progress)


def fill(
    served: ServedModel,
    activations: Activations,
    options: ServeOptions,
    choices: str | None = None,
    progress: Say = lambda _: None,
) -> BitsPlan:
    """The most bits per weight, and a mixture, for a model that is built already. Pure."""
    ladder = make_ladder(served, choices)
    lowest = size_stored(served, activations, ladder.formats[0], ladder.stored[0], options)
    engine = ENGINES[lowest.engine]
    order = engine.mixture_order(served)
    budget = budget_of(ladder, lowest)
    allocation = allocate(ladder.stored, budget.quantizable_bytes, order, served.layers)
    mixed = mixed_model(ladder.stored, allocation)
    weight_format = replace(ladder.formats[0], name=mixed.format, store=lambda _: mixed)
    serving = size_stored(served, activations, weight_format, mixed, options)
    assert serving.fits, "a mixture is never over budget"
    assert lowest.gpu is not None
    most = most_bits(ladder, budget)
    exact = average_format(ladder, most)
    candidates = (*_real(all_formats()), *((exact,) if exact else ()))
    table = size_all(served, activations, candidates, options, progress)
    is_full = all(rung == len(ladder.formats) - 1 for rung in allocation.rungs)
    return BitsPlan(
        model=lowest.model,
        options=options,
        gpu=lowest.gpu,
        engine=lowest.engine,
        context=lowest.context,
        batch=lowest.batch,
        choices=ladder.choices(),
        quantizable_weights=ladder.weights,
        kept=ladder.kept(),
        budget=budget,
        bits_per_weight=most,
        below=nearest_below(table.formats),
        mixture=mixture_of(allocation, serving, _present(order, allocation.parts())),
        card_support=serving.card_support,
        notes=(
            ORDER_NOTE,
            *engine.mixture_notes,
            *((FULL_NOTE,) if is_full else ()),
            *_notes(serving),
        ),
    )


class _Shared(Squeezed):
    """One answer for all formats: activations do not depend on how weights are kept."""

    __slots__ = ()

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(getattr(self.activations, "notes", ()))


def _real(all_of_them: Sequence[Format]) -> tuple[Format, ...]:
    """Without the flat ones, in which no engine stores a model."""
    return tuple(one for one in all_of_them if one.family != "plain" or one.bits is None or one.bits >= 16)


def _present(order: Sequence[Upgrade], parts: Sequence[MixturePart]) -> tuple[str, ...]:
    roles = {part.role for part in parts}
    return tuple(str(step) for step in order if roles.intersection(step.roles))


def _notes(serving: Serving) -> tuple[str, ...]:
    """The notes on serving, without those that describe one choice as if it were the whole model."""
    return tuple(note for note in serving.notes if "shown at" not in note)
