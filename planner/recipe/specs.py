"""What a recipe asks for, as plain records: the simulation reads these and never the YAML.

Fields are named as in LLM Compressor and compressed-tensors. `planner.recipe.load` makes the records, for every
modifier that `planner.compress.modifiers` knows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from planner.errors import UnsupportedError
from planner.notes import Note

Strategy = Literal["tensor", "channel", "group", "block", "token", "tensor_group", "attn_head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantArgs:
    """compressed-tensors' QuantizationArgs, as resolved (presets expanded, observers filled in)."""

    num_bits: int
    type: Literal["int", "float"]
    symmetric: bool
    strategy: Strategy
    group_size: int | None = None
    block_structure: tuple[int, int] | None = None
    dynamic: bool | Literal["local"] = False
    actorder: Literal["group", "weight", "static"] | None = None
    observer: str | None = None
    observer_kwargs: tuple[tuple[str, float], ...] = ()
    scale_dtype: str | None = None
    """torch dtype name without `torch.`, e.g. `float8_e4m3fn`; None: the weight's own dtype."""
    zp_dtype: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """One config group: what it quantizes and how."""

    targets: tuple[str, ...]
    weights: QuantArgs | None = None
    input_activations: QuantArgs | None = None
    output_activations: QuantArgs | None = None
    where: str = field(default="", compare=False)
    """Path of the group in the recipe file, for error messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionScheme:
    """How one attention's states are quantized: its keys and values, and its queries too."""

    args: QuantArgs
    queries: bool = False
    """A config group names the attention itself; kv_cache_scheme leaves queries alone."""
    is_observed: bool = True
    """False where the modifier's targets or ignores leave its observers out: its scales are never computed."""
    where: str = field(default="", compare=False)
    """Path in the recipe file."""


@dataclass(frozen=True, slots=True)
class ModuleRef:
    """A module as recipes see it: its full name, the class names of its MRO, own class first, and its weight."""

    name: str
    classes: tuple[str, ...]
    rows: int = 0
    columns: int = 0
    itemsize: int = 0
    """Shape of its weight flattened to (rows, columns), and bytes of an element; 0 without a matrix."""
    takes_cache: bool = False
    """Its forward takes past keys and values."""
    takes_any: bool = False
    """Its forward takes arguments of any name."""
    is_bare: bool = False
    """No weight and no buffer is in it."""
    has_weights: bool = False
    """Weights of its own, not of a module in it alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """What the library looks up in a model beside its modules; 0, and None, where the config does not say."""

    architecture: str = ""
    """The model's class."""
    is_moe: bool = False
    """modifiers/utils/pytorch_helpers.py `is_moe_model`."""
    heads: int = 0
    """Attention heads of the text decoder, and"""
    kv_heads: int = 0
    """heads of its keys and values."""
    head_dim: int | None = 0
    """Width of a head; None where the config has the entry, and None in it."""
    is_head_dim_nested: bool = False
    """It is in the config's text part alone."""
    experts: int = 0
    """Routed experts in a layer, and"""
    experts_per_token: int = 0
    """how many of them a token goes to."""
    expert_groups: int | None = None
    """Groups that a router chooses from first, and"""
    groups_per_token: int | None = None
    """how many of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one modifier works on in one model, by full names."""

    weights: Mapping[str, Scheme | None]
    """Modules whose weights it changes, in model order, with the scheme each gets; None where it gives none."""
    watched: frozenset[str] = frozenset()
    """Modules whose calls it sees and whose weights stay: a parent block, a norm."""
    attention: Mapping[str, AttentionScheme] = field(default_factory=dict)
    """Attentions whose states it quantizes."""
    keys: frozenset[str] = frozenset()
    """Attentions whose keys it changes in every forward."""


@dataclass(frozen=True, slots=True)
class HiddenModule:
    """A selected module that the traced graph does not show, so that `sequential_epoch_end` never gets it, or that no
    sample runs."""

    name: str
    is_embedding: bool
    runs: bool
    """False where no sample passes through it, like a vision tower in a text-only job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModifierSpec(ABC):
    """One modifier of a recipe: what it says, and what LLM Compressor's class of that name does with a model.

    A subclass has LLM Compressor's fields with their defaults and answers the questions below. All of them are
    answered in words of the recipe (names, classes, schemes), none needs the model's code. The default answers are
    those of a modifier that needs calibration data and accepts whatever model it finds.
    """

    type: ClassVar[str]
    """Name of its class in LLM Compressor, under which a recipe asks for it."""
    where: str = ""
    """Path into the recipe file, for error messages."""
    notes: tuple[Note, ...] = field(default=(), compare=False)
    """Notes on fields of the recipe that LLM Compressor accepts and ignores."""

    @classmethod
    @abstractmethod
    def read(cls, fields: Any, where: str) -> Self:
        """The record for a recipe's entry at `where`.

        Raises RecipeError where LLM Compressor would refuse the entry, with the path of what is wrong;
        UnsupportedError for what planner does not model.
        """

    @property
    def requires_calibration_data(self) -> bool:
        """Modifier.requires_calibration_data: without it, the independent pipeline runs no forward."""
        return True

    @property
    def has_hessians(self) -> bool:
        """Whether it accumulates one (columns x columns) matrix for each module; the rule of thumb depends on this."""
        return False

    @property
    def unties_embeddings(self) -> bool:
        """Whether it calls untie_word_embeddings when it selects the embedding or the head."""
        return False

    @property
    def rewrites_weights(self) -> bool:
        """Whether it writes the selected weights anew; False where it computes scales alone."""
        return True

    @property
    def rewrites_first(self) -> bool:
        """Whether it does so before the first sample, as its pipeline begins; else while it compresses."""
        return False

    @property
    def shares_work(self) -> bool:
        """Whether ranks of a torchrun job deal the modules out among them, instead of doing the same each."""
        return False

    def in_ranks(self) -> Iterable[Note]:
        """What several ranks mean for it, beyond the figures, or that they are not modelled."""
        return ()

    @property
    def trains(self) -> bool:
        """Whether it trains each sequential target by itself: it watches them all, and `tuning` says how. Errors of one
        subgraph are then not propagated to the next (pipelines/sequential/pipeline.py SequentialPipeline)."""
        return False

    @property
    def adapts_to_card(self) -> bool:
        """Whether what it does hangs on the size of the GPUs, so that each size has a program of its own."""
        return False

    @property
    def spreads_over(self) -> tuple[int, ...]:
        """Numbers of the GPUs that it spreads a layer over: they must be there, whatever lies on them."""
        return (0,)

    def on_gpus(self, count: int) -> Self:
        """The same on a machine with so many GPUs, where it takes all that there are."""
        del count
        return self

    def check_gpus(self, count: int) -> None:
        """Raises UnsupportedError where it takes all GPUs, the job needs so many, and nobody said how many are."""

    @property
    def prunes(self) -> bool:
        """Whether it sets some of the selected weights to zero."""
        return False

    @property
    def kv_cache(self) -> QuantArgs | None:
        """How it quantizes keys and values in the served model's cache; None where it does not."""
        return None

    @property
    def keeps_modules(self) -> bool:
        """Whether it refers to the modules that it targets from the start, so that none of them can go."""
        return False

    def experts_left(self, facts: ModelTraits) -> int | None:
        """Experts that each layer of a model of these facts keeps; None where it removes none."""
        return None

    def added(
        self,
        modules: Sequence[ModuleRef],
        *,
        on_gpu: bool = False,
        trained: Sequence[str] = (),
        replaced: Collection[str] = (),
    ) -> Iterable[tuple[str, str, tuple[int, ...]]]:
        """Tensors that it adds to the saved checkpoint: name, safetensors' type, shape; tied ones once.

        `on_gpu`: weights lie on the GPU, where each module is offloaded. `trained`: layers that another modifier trains
        when it has begun. `replaced`: what later modifiers hang in the places of its `parts`.
        """
        return ()

    def parts(self, modules: Sequence[ModuleRef]) -> Iterable[str]:
        """Full names of the modules that it hangs on these for good; where there is one, it goes."""
        return ()

    def left_files(self, on_disk: Callable[[str], bool]) -> int:
        """Bytes of files that it leaves in the offload folder beside those of the model's own tensors."""
        return 0

    def check_result(self, modules: Sequence[ModuleRef]) -> None:
        """Raises UnsupportedError where the saved config does not describe what it leaves of the model."""

    def removes(self, name: str) -> bool:
        """Whether no module of this name is left when it is done."""
        return False

    def follow(self, earlier: Sequence["ModifierSpec"]) -> None:
        """Raises RecipeError or UnsupportedError where it cannot run after these modifiers."""

    def within(self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence["ModifierSpec"]) -> Self:
        """The record with what it looks up in the model and in the recipe's other modifiers before it starts.

        Itself where that is nothing. Raises RecipeError where the library would.
        """
        return self

    def check_forward(self, called: Callable[[str], Sequence[Any]]) -> Iterable[tuple[str, str]]:
        """The modules, and where on them (`OnlineRotation.place`), whose hooks have to be in the traced forward.

        Raises RecipeError where what it hooks fails in the forward, UnsupportedError where planner cannot see it.
        `called`: the calls of a module (planner.models.traces.Call), empty where no sample passes through it.
        """
        return ()

    def with_traced(self, hooks: Collection[tuple[str, str]]) -> Self:
        """The record where the traced forward has these of its hooks."""
        return self

    def hooked_inputs(
        self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence["ModifierSpec"]
    ) -> frozenset[str]:
        """Linears whose first positional argument it changes in every call for good (compressed-tensors
        transform/factory/base.py `input_hook`): most leave arguments as they are."""
        return frozenset()

    def online(self, layer: str, modules: Sequence[ModuleRef]) -> Iterable[Any]:
        """The transforms that it leaves in this layer, of these modules, as `planner.models.tuned.OnlineRotation`: most
        leave none."""
        return ()

    @abstractmethod
    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        """What it works on; `modules` are all of the model's in the order of named_modules()."""

    def attached(self, selection: Selection) -> Selection:
        """The schemes that stay on the modules once it is initialized, before any modifier runs."""
        return Selection(weights={})

    def find(self, selection: Selection, schemes: Selection) -> Selection:
        """What it works on once all modifiers of the recipe are initialized: a later one's scheme replaces an
        earlier one's on the same module. `schemes`: those that are on the modules then."""
        return selection

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """What the library says before it starts: RecipeError where it refuses, notes where it goes on regardless."""
        return ()

    def hidden(self, modules: Sequence[HiddenModule]) -> Iterable[Note]:
        """What becomes of selected modules that the traced graph does not show; RecipeError where that ends the job.

        Called only in a job with calibration data, with at least one module.
        """
        return ()

    def failures(self, inputs: Iterable[tuple[str, int]]) -> Iterable[Note]:
        """Where the job starts in LLM Compressor and does not finish, as notes of the kind `fails`.

        `inputs` yields, for one call after the other, the name of the called module and the number of dimensions of
        its input; it reads the trace only as far as it is consumed.
        """
        return ()

    def masked(self, outputs: Iterable[tuple[str, int, tuple[int, ...]]], samples: int, tokens: int) -> Iterable[Note]:
        """What loss masks of (samples, tokens) mean for it (`use_loss_mask`): most modifiers do not look at them.

        `outputs` yields, for one call of a watched module after the other, its name, the rows of its input, and the
        shape of its output.
        """
        return ()

    @property
    def keeps_arguments(self) -> bool:
        """It keeps all that watched modules are passed, whatever it is."""
        return False

    def without_data(self) -> Iterable[Note]:
        """What becomes of it in the data-free pipeline, where it needs calibration data (pipelines/data_free)."""
        text = f"The datafree pipeline runs no forward, although {self.type} needs calibration data."
        yield Note(kind="job", text=text)

    def uncounted(self) -> Iterable[Note]:
        """What the memory model leaves out, as notes of the kind `estimate`."""
        return ()

    def uncounted_in_basic(self) -> Iterable[Note]:
        """The same of jobs in the basic pipeline alone."""
        return ()

    def tuning(
        self, layer: str, modules: Sequence[ModuleRef], schemes: Mapping[str, Scheme | None], samples: int, rows: int
    ) -> Any:
        """How it trains a sequential target that consists of these modules, by `rows` samples in each batch of
        calibration: a `planner.models.tuned.TuningRequest`."""
        raise UnsupportedError(f"{type(self).__name__} trains nothing")

    def model(self, context: Any) -> Any:
        """Its memory model on the books of `context`: a `planner.compress.modifiers.base.ModifierModel`."""
        raise UnsupportedError(f"{type(self).__name__} has no memory model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe's modifiers in the order LLM Compressor runs them."""

    name: str
    modifiers: tuple[ModifierSpec, ...]
    notes: tuple[Note, ...] = ()
    """Notes on what LLM Compressor accepts and ignores, or does otherwise than the recipe says."""

    @property
    def adapts_to_card(self) -> bool:
        """Whether one of them does otherwise on GPUs of another size."""
        return any(spec.adapts_to_card for spec in self.modifiers)

    def on_gpus(self, count: int) -> "Recipe":
        """What it is on a machine with so many GPUs."""
        modifiers = tuple(spec.on_gpus(count) for spec in self.modifiers)
        return self if modifiers == self.modifiers else replace(self, modifiers=modifiers)

    def check_gpus(self, count: int) -> None:
        """As `ModifierSpec.check_gpus`."""
        for spec in self.modifiers:
            spec.check_gpus(count)
