"""Where transforms may stand: on which modules of a model the library puts them, and which fail once samples pass.

compressed_tensors transform/factory/base.py `_apply_to_module`, transform/utils/matrix.py `get_transform_size`,
modeling/kvcache.py `_kv_cache_attention_hook`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from planner.compress.modifiers.rotations import check_size, side
from planner.compress.modifiers.transforms import ONLINE, Application, Applied, Found, Transform
from planner.errors import RecipeError, UnsupportedError
from planner.models.traces import Call
from planner.recipe.specs import ModuleRef


class PassedCalls(Protocol):
    """What samples do with a model's modules."""

    def __call__(self, name: str) -> Sequence[Call]:
        """The calls of a module, empty where no sample passes through it; raises UnsupportedError where that is not
        known."""

    def is_iterated(self, name: str) -> bool:
        """A list or sequence of modules is gone through while samples pass."""


def bound(
    transforms: Iterable[Transform], modules: Sequence[ModuleRef], head_dim: int
) -> tuple[tuple[Transform, ...], tuple[Applied, ...]]:
    """The groups for this model, whose heads are so wide, and what is applied, in order.

    Raises RecipeError where the library would fail on a module before the first sample.
    """
    found, transforms = Found(modules), tuple(transforms)
    for transform in transforms:
        for application in sorted(transform.apply, key=lambda each: each.is_online):
            for ref in found.of(application):
                _check_place(ref, transform, application, found, head_dim)
    groups = tuple(each.within(found) for each in transforms)
    return groups, tuple(_applied(group, application, found) for group in groups for application in group.apply)


def _applied(group: Transform, application: Application, found: Found) -> Applied:
    refs = found.of(application)
    names, owners = (
        tuple(ref.name for ref in refs),
        tuple((ref.name, group.size_of(ref, application)) for ref in refs if ref.has_weights or ref.itemsize),
    )
    if application.of_states:
        pairs = [(_attentions(ref, found.modules), group.size_of(ref, application)) for ref in refs]
        states = tuple((name, size) for names, size in pairs for name in names or ("",))
        others = tuple(ref for ref in refs if not _is_attention(ref))
        return Applied(group, application, names, states, others, owners)
    others = tuple(ref for ref in refs if ref.classes[:1] != ("Linear",)) if application.is_online else ()
    return Applied(group, application, names, others=others, owners=owners)


def _check_place(ref: ModuleRef, transform: Transform, application: Application, found: Found, head_dim: int) -> None:
    where = f"{application.where}.targets"
    if not application.is_online and ref.classes[:1] not in (("Linear",), ("Embedding",)):
        # utils/matrix.py `apply_transform_weight` compares classes
        what = "Linear" if "Embedding" not in ref.classes else "Embedding"
        raise RecipeError(f"takes {_named(ref)}, which is no plain {what}: LLM Compressor fails on it", where)
    is_sized = "Linear" in ref.classes or "Embedding" in ref.classes
    if transform.block is None and not is_sized:
        text = f"takes {_named(ref)}: LLM Compressor wants a head_dim for {application.location} of what is no Linear"
        raise RecipeError(text, where)
    if application.of_states and ref.takes_cache and transform.block:
        if not _attentions(ref, found.modules):
            raise UnsupportedError(f"{where}: takes {_named(ref)}: planner knows the keys of attentions alone")
        own, name = head_dim or transform.block, f"the heads of {ref.name}"
    elif is_sized:
        own, name = side(ref.rows, ref.columns, "Embedding" in ref.classes, application.is_output), ref.name
    else:
        own, name = transform.block or 0, ref.name
    check_size(transform.type, own, name, transform.block, transform.where)


def _is_attention(ref: ModuleRef) -> bool:
    return ref.takes_cache and any("attention" in name.lower() for name in ref.classes[:1])


def _attentions(ref: ModuleRef, modules: Sequence[ModuleRef]) -> tuple[str, ...]:
    """Those that get this module's cache: itself, or those in a layer that passes it on."""
    if _is_attention(ref) or not ref.takes_cache:
        return (ref.name,) if ref.takes_cache else ()
    return tuple(each.name for each in modules if each.name.startswith(f"{ref.name}.") and _is_attention(each))


# ---------------------------------------------------------------------- samples pass
def check_forward(applied: Iterable[Applied], called: PassedCalls) -> Iterator[tuple[str, str]]:
    """Module and place of the hooks that change more of the forward than a value: a trace with them shows it.

    Raises RecipeError where a hook would fail in the forward, UnsupportedError where planner does not see it.
    """
    for each in applied:
        for ref in each.others:
            where = f"{each.application.where}.targets"
            size = each.transform.size_of(ref, each.application)
            # register_offload_module makes the transform one of its modules
            changes = called.is_iterated(ref.name)
            for call in _calls(ref, called, where):
                match each.application.location:
                    case "input":
                        changes |= _check_input(ref, call, size, where)
                    case "output":
                        _check_output(ref, call, size, where)
                    case _ if not ref.takes_cache and not ref.takes_any:
                        text = (
                            f"takes {_named(ref)}, whose forward takes no past keys: LLM Compressor stops (TypeError)"
                        )
                        raise RecipeError(text, where)
                is_node = call.in_graph and not each.application.of_states
                changes |= _returns_input(call) or (call.holds_targets and not is_node)
            if changes:
                yield ref.name, ONLINE[each.application.location]


def _named(ref: ModuleRef) -> str:
    return ref.name or "the model itself"


def _calls(ref: ModuleRef, called: PassedCalls, where: str) -> Sequence[Call]:
    try:
        return called(ref.name)
    except UnsupportedError as error:
        raise UnsupportedError(f"{where}: {error}") from error


def _check_input(ref: ModuleRef, call: Call, size: int, where: str) -> bool:
    """Whether the hook drops an argument that has a default."""
    if "Embedding" in ref.classes:
        text = "whose input are token ids: a transform makes numbers of them that are none, and LLM Compressor stops"
        raise RecipeError(f"takes {_named(ref)}, {text}", where)
    if not call.leads:
        text = f"takes {_named(ref)}, which is called with keyword arguments: the hook on its input reads args[0]"
        raise RecipeError(f"{text}, and LLM Compressor stops (IndexError)", where)
    if call.others:
        text = (
            f"takes {_named(ref)}, which is passed {' and '.join(call.others)} by position too: the hook on its input"
        )
        if call.must_have:
            raise RecipeError(f"{text} leaves them out, and LLM Compressor stops (TypeError)", where)
    _check_width(ref, call.columns, size, where)
    return bool(call.others)


def _returns_input(call: Call) -> bool:
    """The module returns what it was passed: with a hook between, who passed it has both for a while."""
    storages = {value.storage for value in call.arguments if value.storage >= 0}
    return any(value.storage in storages for value in call.outputs)


def _check_output(ref: ModuleRef, call: Call, size: int, where: str) -> None:
    if [value.name for value in call.outputs] != ["output"]:
        text = f"takes {_named(ref)}, which returns no single tensor: LLM Compressor stops (AttributeError)"
        raise RecipeError(text, where)
    _check_width(ref, call.output[-1], size, where)


def _check_width(ref: ModuleRef, width: int, size: int, where: str) -> None:
    """utils/matrix.py `_multihead_matmul`: several heads side by side."""
    if width % size:
        text = f"takes {_named(ref)}: {size} must divide {width}, what it multiplies there, or LLM Compressor stops"
        raise RecipeError(text, where)
