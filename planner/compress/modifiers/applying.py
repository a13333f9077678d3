"""Groups of transforms in memory: matrices made, weights multiplied, hooks left. factory/base.py `_apply_to_module`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

from planner.compress.context import Context
from planner.compress.holdings import DeviceName, Owner
from planner.compress.modifiers.matrices import HookedMatrix, Matrices
from planner.compress.modifiers.transforms import Application, Applied
from planner.errors import RecipeError, UnsupportedError
from planner.models.traces import KEY_STATES, Call
from planner.recipe.targets import LinearModule
from planner.timeline import Handle


class Groups:
    """The matrices lie with the model for good where hooks have them; a rotated input lives as long as its Linear
    runs."""

    def __init__(self, context: Context, applied: Sequence[Applied]) -> None:
        self.context = context
        self.groups = [tuple(group) for _, group in groupby(applied, key=lambda each: id(each.transform))]
        self.has_hooks = any(each.application.is_online for each in applied)
        self._hooks: dict[tuple[str, str], list[_Rotating]] = defaultdict(list)
        """By module and location, in the order in which they came."""
        self._matrices: list[Matrices] = []
        self._bare: dict[str, DeviceName] = {}
        """Where the first matrix of a module lies that has no tensors of its own, in the basic pipeline: elsewhere all
        modules are offloaded before there is one."""
        self._passed: dict[str, Handle] = {}
        """What the hooks passed on, by module."""

    def apply(self, modules: Mapping[str, LinearModule]) -> None:
        """apply.py `apply_transform_config`: group after group; no Linear keeps anything onloaded."""
        kept, self.context.keep_onloaded = self.context.keep_onloaded, False
        for group in self.groups:
            transform = group[0].transform
            what = transform.label, transform.type, transform.dtype
            matrices = Matrices(self.context, *what, where=transform.path, permutes=transform.permutes)
            self._matrices.append(matrices)
            for each in group:
                self._apply(matrices, each, modules)
        self.context.keep_onloaded = kept

    def finalize(self) -> None:
        """What no hook has is in weights."""
        hooks = [hook for hooks in self._hooks.values() for hook in hooks]
        for matrices in self._matrices:
            matrices.free([hook.matrix for hook in hooks if hook.matrices is matrices])

    def enter(self, module: LinearModule, call: Call) -> None:
        """factory/base.py `input_hook`: the Linear gets the rotated input, its caller keeps the other.

        Each is prepended, so that the last one runs first; torch/nn/modules/module.py `_call_impl` lets go of what the
        one before returned when it has the next.
        """
        if module.name.endswith(KEY_STATES):
            self._turn_keys(module, call)
        elements, owner = call.rows * call.columns, Owner(module.name, "rotated input")
        for hook in reversed(self._run(module.name, "input")):
            rotated = hook.rotated(elements, call.itemsize, owner)
            self.leave(module)
            self._passed[module.name] = rotated

    def leave(self, module: LinearModule) -> None:
        """torch/nn/modules/module.py `_call_impl` lets go of what the hooks passed on."""
        if module.name in self._passed:
            self.context.ledger.free(self._passed.pop(module.name))

    def turn(self, module: LinearModule, call: Call) -> None:
        """factory/base.py `output_hook`: the caller gets the rotated output."""
        elements, owner = prod(call.output), Owner(module.name, "rotated output")
        for hook in self._run(module.name, "output"):
            self.context.forward.replace(call.outputs[0], hook.rotated(elements, call.output_itemsize, owner))

    def traced(self, name: str, call: Call) -> None:
        """pipelines/sequential/helpers.py trace_subgraphs, under `disable_onloading`: what is returned goes at once."""
        elements, owner = prod(call.output), Owner(name, "rotated output")
        for hook in self._hooks.get((name, "output"), ()):
            self.context.ledger.free(hook.rotated(elements, call.output_itemsize, owner))

    def traced_in_graph(self, name: str) -> None:
        """pipelines/sequential/transformers_helpers.py HFTracer.create_proxy runs a node on values of the meta device,
        and its matrix is no such value until it is permuted."""
        for location in ("input", "output"):
            for hook in self._hooks.get((name, location), ()):
                with self.context.frame("transform", Owner(name, "while the model is traced")) as frame:
                    hook.matrices.permute(frame, hook.matrix.size)

    def _run(self, name: str, location: str) -> list["_Rotating"]:
        """The hooks that the traced forward does not have."""
        return [hook for hook in self._hooks.get((name, location), ()) if not hook.is_traced]

    def _turn_keys(self, module: LinearModule, call: Call) -> None:
        """factory/base.py `key_hook`: the attention gets the rotated keys, and lets go of the others.

        native/LinearAlgebra.cpp matmul makes (batch * heads, tokens, width) of them: a copy where heads lie side by
        side, in more than one sample. Nothing runs the hooks of queries (`transforms.unturned`).
        """
        copied = call.dims[0] > 1 and call.dims[1] > 1 and call.contiguous
        elements, owner = call.rows * call.columns, Owner(module.name, "rotated")
        for hook in self._run(module.name, "k_cache"):
            self.context.forward.replace(call.arguments[0], hook.rotated(elements, call.itemsize, owner, copied=copied))

    def _apply(self, matrices: Matrices, each: Applied, modules: Mapping[str, LinearModule]) -> None:
        transform, application = each.transform, each.application
        owners = dict(each.owners) if self.context.job.weights == "disk" else {}
        if application.of_states:
            for name, size in owners.items():
                self._check_disk(matrices, application, name, size)
            for name, size in each.states:
                is_traced = any(f"{name}.".startswith(f"{above}.") for above in each.traced)
                self._hook(matrices, each, f"{name}.{KEY_STATES}", size, matrices.place, is_traced=is_traced)
            return
        # offload/utils.py get_module_device: where its first tensor lies, and on the CPU where there is none
        bare = {ref.name for ref in each.others if ref.is_bare}
        others = {ref.name for ref in each.others}
        for name in each.names:
            module = modules.get(name)
            if module is None and name in others:  # it holds units, and is in none
                self._hook(matrices, each, name, transform.block or 0, matrices.place)
            if module is None:
                continue
            size = transform.size(module.rows, module.columns, module.embedding, application)
            if name in owners:
                self._check_disk(matrices, application, name, size)
            if application.is_online:
                place = self._bare.get(module.name, "cpu") if module.name in bare else matrices.place
                self._hook(matrices, each, module.name, size, place)
            else:
                matrices.rotate(module, size, inverse=application.inverse)

    def _check_disk(self, matrices: Matrices, application: Application, name: str, size: int) -> None:
        """offload/convert/from_accelerate.py remove_accelerate_from_module: what has no weights of its own is offloaded
        to the CPU."""
        if not self.context.is_on_disk(name):
            return
        what, where = f"takes {name}, which lies on the disk", f"{application.where}.targets"
        if size not in matrices.made:  # factory/hadamard.py `_create_weight`: data.to(device="disk")
            text = f"{what}: LLM Compressor makes its matrix there, and PyTorch stops (RuntimeError)"
            raise RecipeError(f"{text}; leave out --weights disk", where)
        if application.is_online:  # offload/cache/disk.py DiskCache.offload writes a file for each
            raise UnsupportedError(
                f"{where}: {what}, while the matrix was made elsewhere: planner does not follow hooks with files of "
                "their own; leave out --weights disk"
            )

    def _hook(
        self, matrices: Matrices, each: Applied, name: str, size: int, place: DeviceName, *, is_traced: bool = False
    ) -> None:
        matrices.make(size, place=place)
        if each.application.inverse:
            matrices.invert(size)
        matrices.stay(size, place)
        if matrices.in_basic:
            self._bare.setdefault(name, matrices.places[size])
        application = each.application
        hooks = self._hooks[name, application.location]
        matrix = HookedMatrix(
            module=name,
            location=application.location,
            number=len(hooks),
            place=place,
            size=size,
            inverse=application.inverse,
        )
        is_traced |= name in each.traced
        if is_traced:
            matrices.wait(matrix, f"{application.where}.targets")
        hooks.append(_Rotating(matrices, matrix, is_traced))


@dataclass(frozen=True, slots=True)
class _Rotating:
    matrices: Matrices
    matrix: HookedMatrix
    is_traced: bool

    def rotated(self, elements: int, itemsize: int, owner: Owner, *, copied: bool = False) -> Handle:
        """What it returns."""
        return self.matrices.rotated(self.matrix, elements, itemsize, owner, copied=copied)
