"""What a unit is and when it is onloaded, where only names and classes tell."""

import torch

from planner.models.graph import Onload
from planner.models.kinds import BESIDE_TEXT, UnitKind


def guess(name: str, module: torch.nn.Module) -> UnitKind:
    """The kind of unit by its name and class."""
    text = f"{name.rpartition('.')[2]} {type(module).__name__}".lower()
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    if any(word in text for word in ("projector", "merger", "connector")):
        return "projector"
    return "norm" if "norm" in text else "other"


def guessed_onload(kind: UnitKind, is_target: bool, has_media: bool) -> Onload:
    """The onload of a unit that no trace tells of: the unit has no weights, or the forward does not run."""
    if is_target:
        return "own-subgraph"
    if kind in BESIDE_TEXT:
        return "head" if has_media else "never"
    if kind == "head":
        return "setup"
    return "last" if kind == "norm" else "head"
