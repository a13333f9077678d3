"""What the planner asks of a serving engine: one record of this kind for each, and nowhere else an engine's name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from planner.compress.schema import CardSupport
from planner.fields import Engine, SplitMode
from planner.formats.mixed import Upgrade
from planner.formats.registry import Family
from planner.formats.served_model import CacheKind, ServedModel
from planner.hardware import Gpu
from planner.recipe.specs import Scheme
from planner.serving.schema import OverheadPart
from planner.units import MIB

Devices = Callable[[int], int | None]
"""Number of a decoder layer -> GPU, None for the CPU; the number after the last layer's is the output."""

# Names of the parts of an overhead.
CONTEXT, GRAPHS, SHARE, FLAT = "cuda-context", "cuda-graphs", "not-vllm", "flat"
PARTS = (CONTEXT, GRAPHS, SHARE)

# PyTorch issue 107667: about 300 MB since CUDA 11.7 loads kernels when they are first used, more as libraries are
# used; before that over 1 GB.
PYTORCH_CONTEXT = 512 * MIB
CONTEXT_SOURCE = "assumed: 0.3 to 0.6 GiB by driver, card and libraries (pytorch issue 107667: 300 MB and more)"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """One serving engine."""

    name: Engine
    made_for: tuple[Family, ...]
    """Formats that it serves unless another engine is asked for."""
    also_reads: tuple[Family, ...] = ()
    """Formats that it serves when it is asked for."""

    # The cache
    block: int
    """Tokens of a page of the cache: a sequence takes whole ones."""
    cache_types: tuple[str, ...]
    """Types that it offers for keys and values."""
    cache_type: str | None
    """The one that it takes by itself; None: what the format makes of keys and values, else the model's own type."""
    window_room: Callable[[CacheKind, int, int, int, int], int]
    """Tokens of one sequence that a layer with a window makes room for while a prompt is read.

    Asked with the layer's kind, its window, the context, the block and the chunk."""
    room_from_the_start: bool
    """Every sequence has that room all the time, not just while its own prompt is read."""
    window_reach: Callable[[int, int], int | None]
    """From a window and a chunk: the context beyond which a layer with that window takes no more; None: none."""

    # A step
    chunk: Callable[[Gpu | None], int]
    """Tokens of one prefill step over all sequences, on this GPU."""
    most_sequences: int | None = None
    """It refuses more at the same time; None without a limit."""
    reserves_whole_chunk: bool = False
    """Sets memory aside for a step of a whole chunk at start, attention left out, however short the prompts are."""
    logits_bytes: Callable[[int, int, int], int] = lambda _tokens, _vocabulary, _hidden: 0
    """What it keeps for the logits of a step beside the forward's own: of tokens, vocabulary and hidden size."""

    # The devices
    split: SplitMode
    """How it divides a model over GPUs unless asked otherwise."""
    splits: tuple[SplitMode, ...]
    """All the ways that it has."""
    layer_devices: Callable[[int, int, int | None], Devices]
    """Where each layer lies when it splits by layer: of layers, GPUs, and layers that were asked for on GPUs."""
    keeps_layers_on_cpu: bool = False
    tables_on_gpu: bool = False
    """Tokens are looked up on the GPU, in a table that the format would keep in CPU memory."""

    # Beside weights, cache and activations
    context_bytes: int
    """The CUDA context and the kernels that are loaded into it."""
    pools: tuple[OverheadPart, ...] = ()
    """Its own further parts."""
    left_to_others: Callable[[float | None, int, int], OverheadPart] | None = None
    """The part of the card that it never touches: of the share that was asked for, the card's memory and the CUDA
    context. None: it takes what it needs."""

    card_support: Callable[[Iterable[Scheme], int | None], CardSupport | None] = lambda _schemes, _sm: None
    """Whether it has kernels for these schemes on a card of this compute capability; None: nothing is known."""

    without_bfloat16: Callable[[Gpu, str | None], tuple[str, ...]] = lambda _gpu, _architecture: ()
    """What it does with a model of this architecture on a card that computes in no bfloat16."""

    # What is said, and how a mixture of types is made for it
    card_notes: Callable[[int, int, Gpu], tuple[str, ...]] = lambda _vocabulary, _batch, _gpu: ()
    """On how it fills this card, of a vocabulary and a batch."""
    mixture_order: Callable[[ServedModel], tuple[Upgrade, ...]]
    """Which matrices of a model get more bits first."""
    mixture_notes: tuple[str, ...] = ()

    def reads(self, family: Family) -> bool:
        """Whether it serves formats of this family."""
        return family in self.made_for or family in self.also_reads


def whole_blocks(tokens: int, block: int) -> int:
    """Tokens rounded up to whole pages of the cache."""
    return -(-tokens // block) * block
