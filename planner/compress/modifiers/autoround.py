"""AutoRoundModifier: llmcompressor/modifiers/autoround/base.py 0.14.0.1 over the package auto_round 0.15.1.

While a layer is calibrated, a hook keeps what it is passed, on the CPU. At the epoch's end its Linears are trained
together: rounding and clipping of every weight get gradients in a few hundred forwards and backwards of the whole
layer, batch by batch. What the GPU holds meanwhile is traced (planner/models/tuning.py); what surrounds it
is in autoround_model.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from planner.compress.context import Context
from planner.compress.modifiers.autoround_model import AutoRoundModel
from planner.compress.modifiers.autoround_schemes import AUTO, AutoRoundFields, gpus_of, linear_tuning, rounding
from planner.compress.modifiers.mixin import QuantizationMixinSpec, shared_fields
from planner.compress.modifiers.training import data_parallel
from planner.errors import RecipeError, UnsupportedError
from planner.models.tuned import Rounding, Spread, TuningRequest
from planner.notes import Note
from planner.recipe.matching import Patterns
from planner.recipe.specs import ModuleRef, Scheme
from planner.recipe.validation import must_calibrate, validated

PASS = 8
"""auto_round algorithms/block_runner.py from_orchestrator: samples that go through a layer together, whatever the
modifier's batch size is, because the orchestrator has no attribute of that name."""

COMPILED = Note(
    kind="estimate",
    text="AutoRound: enable_torch_compile is on, and planned as if it were off: what torch.compile saves of a layer's "
    "forward and backward is not known.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoRoundSpec(QuantizationMixinSpec):
    """AutoRoundModifier, as a recipe asks for it."""

    type: ClassVar[str] = "AutoRoundModifier"
    preset: str | None = None
    """Name of the scheme, where the recipe gives one name."""
    iters: int = 200
    """0: weights are rounded, and nothing is trained."""
    batch_size: int = 8
    enable_torch_compile: bool = True
    disable_opt_rtn: bool = False
    gpus: tuple[int, ...] = (0,)
    """Numbers of the GPUs that each layer is spread over, in their order."""
    takes_all_gpus: bool = False
    """All that there are: `gpus` are not known before `on_gpus` says how many."""
    is_placed: bool = False
    """`device_ids` is given: AutoRound takes the layer to its cards from the CPU."""

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses an entry that says nothing to quantize, and GPUs with which the library stops."""
        entry = validated(AutoRoundFields, fields, where)
        must_calibrate(entry, where)
        spec = cls(
            **shared_fields(entry, where),
            preset=entry.scheme.upper() if isinstance(entry.scheme, str) else None,
            iters=entry.iters,
            batch_size=entry.batch_size,
            enable_torch_compile=entry.enable_torch_compile,
            disable_opt_rtn=entry.disable_opt_rtn,
            gpus=gpus_of(entry.device_ids, f"{where}.device_ids"),
            takes_all_gpus=entry.device_ids == AUTO,
            is_placed=entry.device_ids is not None,
        )
        if not any(group.weights for group in spec.groups):
            raise RecipeError("AutoRound needs a scheme for weights; give scheme (like W4A16) or config_groups", where)
        for group in spec.groups:
            linear_tuning(spec.preset, group)
        return spec

    @property
    def requires_calibration_data(self) -> bool:
        """AutoRoundModifier.requires_calibration_data."""
        return True

    @property
    def shares_work(self) -> bool:
        """Each rank trains every layer with its own samples, and takes the same."""
        return False

    def in_ranks(self) -> Iterable[Note]:
        """What training together takes beside.

        Raises RecipeError with `device_ids`: base.py `_update_device_map_for_dp` leaves them alone on every rank.
        """
        if self.is_placed:
            raise RecipeError(
                "LLM Compressor stops at the first layer of rank 1: its norms are on GPU 1, and samples on GPU 0, "
                "which is named first; leave device_ids out, and each rank takes its own GPU",
                f"{self.where}.device_ids",
            )
        return (data_parallel(self.where),) if self.iters else ()

    @property
    def trains(self) -> bool:
        """It does."""
        return True

    @property
    def adapts_to_card(self) -> bool:
        """models/cards.py cards_of_linears deals a layer's Linears out by the room on several GPUs."""
        return len(self.gpus) > 1

    @property
    def spreads_over(self) -> tuple[int, ...]:
        """Those that `device_ids` names."""
        return self.gpus

    def on_gpus(self, count: int) -> Self:
        """auto_round utils/device.py parse_available_devices: `auto` is the list of all.

        Two layers of Llama-3-8B on two cards of PyTorch's CUDA build take the same in every step as with 0,1.
        """
        if not self.takes_all_gpus:
            return self
        return replace(self, gpus=tuple(range(max(count, 1))), takes_all_gpus=False)

    def check_gpus(self, count: int) -> None:
        """Raises UnsupportedError for `auto`, if `on_gpus` was not asked and there are several."""
        if self.takes_all_gpus and count > 1:
            raise UnsupportedError(
                f"{self.where}.device_ids: auto takes all GPUs, and there are {count} or more: say how many, --gpus N"
            )

    def uncounted(self) -> Iterable[Note]:
        """What torch.compile does."""
        yield from QuantizationMixinSpec.uncounted(self)
        if self.enable_torch_compile and not any(how.static for how in self._ways()):
            yield COMPILED

    def _ways(self) -> Iterable[Any]:
        return (linear_tuning(self.preset, group) for group in self.groups if group.weights)

    def tuning(
        self, layer: str, modules: Sequence[ModuleRef], schemes: Mapping[str, Scheme | None], samples: int, rows: int
    ) -> TuningRequest:
        """compressors/orchestrator.py quantize_block: every Linear of the layer is trained but those that the recipe
        targets and ignores; one that it does not target gets the first group's scheme.

        Raises UnsupportedError for a layer that is a Linear itself: there is none inside to be wrapped.
        """
        targeted = Patterns(target for target, _ in self.targets())
        linears = []
        for ref in modules:
            if ref.classes[:1] != ("Linear",):
                continue
            if ref.name == layer:
                raise UnsupportedError(
                    f"{self.type} trains the Linears inside a layer, and planner does not follow it where the layer is "
                    "a Linear itself; leave Linear out of the sequential targets"
                )
            scheme = schemes.get(ref.name)
            if scheme is None and targeted.first(ref) is not None:
                continue
            linears.append((ref.name[len(layer) :], linear_tuning(self.preset, scheme or self.groups[0])))
        each = rows if self.batch_size == 1 else 1  # calibration/llm.py forward_capture: split into samples
        count = -(-samples // rows) if self.batch_size == 1 else samples
        batch, trained = min(PASS, count), min(self.batch_size, count)
        return TuningRequest(
            layer=layer,
            linears=tuple(linears),
            rows=batch * each,
            last_rows=count % batch * each,
            trained=tuple(min(PASS, trained - done) * each for done in range(0, trained, PASS)),
            rounding=None if self.iters else self._rounding(),
            spread=self._spread(samples),
        )

    def _spread(self, samples: int) -> Spread | None:
        """orchestrator.py quantize_block: what sees no data stays on the first card."""
        if len(self.gpus) == 1 or not (self.iters or self._rounding().sees_data):
            return None
        return Spread(gpus=self.gpus, card_bytes=0, samples=samples, batch=self.batch_size)

    def _rounding(self) -> Rounding:
        first = linear_tuning(self.preset, self.groups[0])
        return rounding(self.preset, first, searches=not self.disable_opt_rtn)

    def model(self, context: Context) -> "AutoRoundModel":
        """Captured inputs, and the training."""
        return AutoRoundModel(context, self)
