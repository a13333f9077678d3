"""Low-rank adapters: which Linears get one, and their weights."""

from collections.abc import Iterable
from fractions import Fraction

from planner.errors import JobError
from planner.footprint.model import ServedModel
from planner.footprint.tensors import Weight
from planner.hints import did_you_mean, shorten

ALL_LINEAR = "all-linear"


def target_weights(served: ServedModel, targets: str) -> tuple[Weight, ...]:
    """The matrices that get an adapter: last parts of module names, or all-linear.

    peft tuners/tuners_utils.py match_target_against_key (a name, or the end of one after a dot) and
    _maybe_include_all_linear_layers (every Linear but the head). Of the text decoder alone; fused experts are
    parameters, not Linears, so they get none. Raises JobError for a name that matches nothing.
    """
    linears = [w for w in served.weights if _is_target(w)]
    if targets.strip().lower() == ALL_LINEAR:
        if not (inside := tuple(w for w in linears if w.unit != "head")):
            raise JobError(f"--targets {ALL_LINEAR}: {served.name} has no Linear in its layers that takes an adapter")
        return inside
    wanted = [name.strip() for name in targets.split(",") if name.strip()]
    last = {name: [w for w in linears if (w.module + ".").endswith(f".{name}.") or w.module == name] for name in wanted}
    for name, found in last.items():
        if not found:
            known = sorted({w.module.rpartition(".")[2] for w in linears})
            hint = did_you_mean(name, known) or f"; it has {', '.join(known)}"
            raise JobError(f"--targets: no Linear of {served.name} is called {shorten(name)!r}{hint} (or all-linear)")
    if not wanted:
        raise JobError("--targets: name Linears like q_proj,v_proj, or write all-linear")
    chosen = {w.name for found in last.values() for w in found}
    return tuple(w for w in linears if w.name in chosen)


def _is_target(weight: Weight) -> bool:
    """peft tuners_utils.py `linear_classes`: a Linear, a class made from it, or transformers' Conv1D."""
    if weight.is_expert or weight.unit in ("vision", "projector"):
        return False
    return weight.is_linear or is_conv1d(weight)


def is_conv1d(weight: Weight) -> bool:
    """The matrix of transformers' Conv1D, which is (in, out)."""
    return "Conv1D" in weight.classes and len(weight.shape) == 2


def adapter_shapes(targets: Iterable[Weight], rank: int) -> list[tuple[tuple[int, ...], int]]:
    """(shape, copies) of lora_A (rank, in) and lora_B (out, rank) of every target.

    peft tuners/lora/layer.py LoraLayer.update_layer.
    """
    shapes: list[tuple[tuple[int, ...], int]] = []
    for weight in targets:
        rows, columns = reversed(weight.shape) if is_conv1d(weight) else weight.shape
        shapes += [((rank, columns), weight.copies), ((rows, rank), weight.copies)]
    return shapes


def share(trained: int, parameters: int) -> float:
    """Percent of all weights that are trained, as peft prints it (print_trainable_parameters)."""
    return float(Fraction(100 * trained, parameters + trained))
