"""The hooks that LLM Compressor gives a modifier (modifiers/modifier.py), as the pipelines call them."""

from collections.abc import Sequence

from planner.compress.context import Context
from planner.models.traces import Call
from planner.recipe.targets import LinearModule


class ModifierModel:
    """Memory model of one modifier: override the hooks that allocate; the rest costs nothing."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def on_calibration_start(self) -> None:
        """Observers are attached and hooks registered."""

    def before_forward(self, module: LinearModule, call: Call) -> None:
        """forward_pre hook of a targeted module."""

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """forward hook of a targeted module: its output exists already."""

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        """Compress: `modules` are the targeted modules of the subgraph, in model order."""

    def on_calibration_end(self) -> None:
        """Hooks and observers are removed."""
