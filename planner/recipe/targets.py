"""What a recipe targets: modules with their shapes and schemes, unit by unit."""

from dataclasses import dataclass, field, replace

from planner.recipe.specs import Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearModule:
    """One module that a recipe may compress, with its full name."""

    name: str
    rows: int
    columns: int
    itemsize: int
    """Bytes of one weight element."""
    scheme: Scheme | None = None
    embedding: bool = False
    """An nn.Embedding: quantized, but never hooked for Hessians."""
    copies: int = 1
    """How many equal modules this one stands for: their statistics add up, all else is held for one at a time."""
    heads: int = 0
    """Of an attention's states, which have no weight: how many heads they are in."""
    has_zero_point: bool = True
    """Of states: keys and values under kv_cache_scheme alone have zero points only where they are asymmetric."""
    observed: bool = True
    """False where the library never shows the module to `sequential_epoch_end` (see models/wrapping.py)."""

    @property
    def weight_bytes(self) -> int:
        return self.rows * self.columns * self.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTargets:
    """What one modifier targets in one onload unit."""

    unit: str
    signature: int
    """Units with equal numbers have equal modules, targeted in the same way."""
    modules: tuple[LinearModule, ...]
    """Targeted modules in model order, named from the unit on (`.self_attn.q_proj`)."""
    loose: bool
    """The unit is no sequential target: it runs in the head or the last subgraph."""
    states: tuple[LinearModule, ...] = ()
    """Queries, keys and values of its attentions that are quantized, named like modules (models/traces.py)."""
    _named: list[LinearModule] = field(default_factory=list, init=False, compare=False, repr=False)
    """The modules with their full names, once somebody asked: a mixture has ten thousands, and each walk asks."""

    def named(self, *, copies: int = 1) -> list[LinearModule]:
        """The modules with their full names."""
        if copies != 1:
            return [replace(m, name=self.unit + m.name, copies=copies) for m in self.modules]
        if not self._named:
            self._named.extend(replace(m, name=self.unit + m.name, copies=1) for m in self.modules)
        return list(self._named)

    def named_states(self) -> list[LinearModule]:
        """The states with their full names."""
        return [replace(m, name=self.unit + m.name) for m in self.states]
