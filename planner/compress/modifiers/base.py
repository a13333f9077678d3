"""The hooks that LLM Compressor gives a modifier (modifiers/modifier.py `Modifier`), as the pipelines call them.

A memory model sees a module in a hook because its spec selected it (`ModifierSpec.select`): the weights that it
changes, and the modules that it merely watches. Watched ones may be any module with weights, of its own or in its
parts, that the traced forward calls: a decoder layer, its attention, a norm. A parent block's hooks enclose those of
the modules in it: `before_forward` of the block, of the first Linear, `after_forward` of that Linear, and so on to
`after_forward` of the block. Under sequential targets inside a block nobody calls that block as a module, and its
hooks do not run, upstream neither.

| hook | serves |
| --- | --- |
| `on_initialize` | what lies in the model for the whole job: pruning/magnitude/base.py `on_initialize` |
| `on_calibration_start` | what is changed before any batch: transform/spinquant/base.py `_fuse_norms` |
| `before_forward` of a Linear | quantization/calibration.py `calibrate_input_hook` |
| `before_forward` of a parent | transform/awq/base.py `_setup_activation_cache_hooks`: arguments kept for each batch |
| `after_forward` of a Linear | gptq/base.py `calibrate_module`; output observers |
| `after_forward` of a norm | transform/smoothquant/base.py `_setup_scale_hooks`: extremes of its output |
| `returned` of a Linear | torch/nn/modules/module.py `_call_impl`: what a pre-hook passed on goes |
| `on_sequential_epoch_end` | all that compresses: quantize, prune, smooth, replay a parent, train a block |
| `on_calibration_end` | what is freed together with the hooks |

`Call` has every tensor that the module is passed and returns. Two services of `context.forward` go with it:

- `retain(value, holding)` in a hook keeps the very tensor, as a Python reference does: nothing is allocated, and it is
  counted in the holding once the forward lets go of it. A copy (`offload_device`) is `Ledger.grow` by `value.bytes`.
- `replay(module)` in `on_sequential_epoch_end` runs one module's forward again (awq/base.py `_run_samples`), batch by
  batch with `walk_batches` of batches.py. The caller holds the arguments and gets the outputs.

What a modifier keeps for each batch must be **one** holding (`Ledger.open`) that `grow`, `retain` or `bequeath`
enlarges with each batch, not one holding for each batch: the pipelines walk only the first and the last batches, and
let growing holdings grow on for the others. They learn from the books that batches are equal, so they do not see a
count of batches inside the model itself: what happens at every tenth batch only is missed, unless something that is
held shows the count.

A modifier that trains sequential targets (autoround/base.py) gets a trace of their training from
`context.forward.tuned` (docs/adding-a-modifier.md).
"""

from collections.abc import Iterable, Sequence

from planner.compress.context import Context
from planner.models.traces import Call
from planner.recipe.targets import LinearModule


class ModifierModel:
    """Memory model of one modifier: override the hooks that allocate; the rest costs nothing."""

    keeps_batches: bool = False
    """It keeps tensors of every batch on the computing device: where they come to lie decides what comes after."""
    stays_in_forward: bool = False
    """Its hooks are the model's own and run in every forward: HooksMixin.disable_hooks does not know them."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def on_initialize(self, modules: Iterable[LinearModule]) -> None:
        """Before the first pipeline, modifier by modifier. `modules`: all that are selected, once."""

    def on_calibration_start(self, modules: Iterable[LinearModule]) -> None:
        """Observers are attached and hooks registered; no batch has run. `modules`: all that are selected, once."""

    def before_forward(self, module: LinearModule, call: Call) -> None:
        """forward_pre hook of a selected module: its input is alive, its output is not there yet."""

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """forward hook of a selected module: its output exists already, its input may still be alive."""

    def returned(self, module: LinearModule, call: Call) -> None:
        """The call of a selected module is over, behind all forward hooks; only for one that stays in the forward."""

    def traced(self, name: str, call: Call) -> None:
        """A module runs while the model is traced, where its weights lie; only for hooks that stay in the forward."""

    def traced_in_graph(self, name: str) -> None:
        """While the model is traced, hooks of a module that holds sequential targets become nodes of the graph."""

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        """Compress: `modules` are those that were selected in the subgraph, in model order, watched ones too."""

    def on_calibration_end(self) -> None:
        """Hooks and observers are removed; what the model still holds must go here."""

    def on_finalize(self) -> None:
        """When the last pipeline has ended, before the model is saved: what `on_initialize` took may go here."""
