"""The observers that LLM Compressor registers: one record each, and nothing about them elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from planner.upstream import Citation

Combining = Literal["newest", "widest", "average"]
"""How a new batch's range meets the earlier ones: it replaces them, widens them, or is averaged with them."""
Statistics = Literal["minmax", "mse", "imatrix"]
"""How a range is found: the extremes as they are, or those shrunk to where the error is least; `imatrix` weighs the
error by the squares of the module's inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """One observer, as far as memory depends on it."""

    source: Citation
    statistics: Statistics
    combines: Combining = "newest"
    on_weights: str | None = None
    """The observer that takes its place on a weight: calibration.py `initialize_observer`."""
    alias_of: str | None = None
    """The observer that this is another name of."""
    needs_data: bool = False
    """On a weight it asks for the module's inputs."""
    maxshrink: float = 0.0
    grid: float = 0.0
    """Defaults of its search: it tries int(maxshrink * grid) ranges."""


_MIN_MAX, _MSE, _IMATRIX = (f"llmcompressor/observers/{name}.py" for name in ("min_max", "mse", "imatrix"))
_EXPANDED = 1 - 0.8 / 1.8  # mse.py NVFP4ExpandedMSEObserver: from 1.8 times the range down to 0.8 times

OBSERVERS: Mapping[str, Observer] = {
    "minmax": Observer(
        source=Citation(_MIN_MAX, "MinMaxObserver", "exists"),
        statistics="minmax",
        combines="average",
        on_weights="memoryless_minmax",
    ),
    "static_minmax": Observer(
        source=Citation(_MIN_MAX, "StaticMinMaxObserver", "exists"),
        statistics="minmax",
        combines="widest",
        on_weights="memoryless_minmax",
    ),
    "memoryless_minmax": Observer(source=Citation(_MIN_MAX, "MemorylessMinMaxObserver", "exists"), statistics="minmax"),
    "mse": Observer(
        source=Citation(_MSE, "MovingAverageMSEObserver", "exists"),
        statistics="mse",
        combines="average",
        on_weights="memoryless_mse",
        maxshrink=0.20,
        grid=100.0,
    ),
    "memoryless_mse": Observer(
        source=Citation(_MSE, "MemorylessMSEObserver", "exists"), statistics="mse", maxshrink=0.20, grid=100.0
    ),
    "nvfp4_expanded_mse": Observer(
        source=Citation(_MSE, "NVFP4ExpandedMSEObserver", "exists"), statistics="mse", maxshrink=_EXPANDED, grid=200.0
    ),
    "fouroversix": Observer(
        source=Citation(_MSE, "_load_fouroversix_alias", "exists"), statistics="mse", alias_of="nvfp4_expanded_mse"
    ),
    "imatrix_mse": Observer(
        source=Citation(_IMATRIX, "IMatrixMSEObserver", "exists"),
        statistics="imatrix",
        needs_data=True,
        maxshrink=0.95,
        grid=20.0,
    ),
    "nvfp4_expanded_imatrix": Observer(
        source=Citation(_IMATRIX, "NVFP4ExpandedIMatrixObserver", "exists"),
        statistics="imatrix",
        needs_data=True,
        maxshrink=_EXPANDED,
        grid=200.0,
    ),
}
"""By the names under which they are registered, hyphens as underscores."""

WEIGHED_STRATEGIES = ("channel", "group", "tensor_group")
"""imatrix.py `_get_validated_importance`: strategies of a weight whose errors iMatrix weighs; others it does not."""

DEFAULT = {"weights": "memoryless_minmax", "input": "minmax", "output": "minmax"}
"""mixin.py `_apply_observer_overrides`: the observer where none is named, by its key in the `observer` mapping."""


def observer_named(name: str | None) -> Observer:
    """The observer of this registered name, or the one that it is an alias of; None stands for an activation's."""
    observer = OBSERVERS[name or DEFAULT["input"]]
    return OBSERVERS[observer.alias_of] if observer.alias_of is not None else observer
