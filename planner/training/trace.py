"""What the traced forward and backward of a training step hold, as plain data."""

from dataclasses import dataclass
from typing import Literal

from planner.fields import DType

Attention = Literal["flash", "eager"]
Checkpointing = Literal["none", "selective", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """How the model runs forward and backward."""

    seq_len: int
    batch_size: int
    attention: Attention = "flash"
    checkpointing: Checkpointing = "none"
    dtype: DType = "bfloat16"
    """Of the weights that the forward reads (torch's name)."""
    autocast: str | None = None
    """16-bit type that torch.autocast casts to; None without it."""
    trainable: bool = True
    """The text decoder is trained; False where adapters alone are."""
    adapters: frozenset[str] = frozenset()
    """Names of the Linears, and of the parameters (fused experts, routers), that have one."""
    rank: int = 16
    dropout: float = 0.0
    """Of the adapters."""
    quantized: frozenset[str] = frozenset()
    """Names of the Linears that are kept in 4 bits; with any, all other weights are fp32."""
    cast: bool = False
    """Every 32-bit weight is cast to `dtype` in the end, adapters too: DeepSpeed in 16 bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One kind of decoder layer, or the embedding, or all after the last layer: norm, head and loss.

    All are allocated bytes; weights, gradients of weights and what other pieces keep are not counted.
    """

    name: str
    """Class of the layer; `embedding`, `head and loss`."""
    saved: int
    """What autograd keeps from this piece's forward until its backward."""
    casts: int
    """The part of `saved` that is 16-bit copies of 32-bit weights, made by autocast."""
    cached_casts: int
    """More such copies, which autocast holds until the whole forward is over and autograd does not keep."""
    forward_peak: int
    """Highest in the forward, what it keeps and copies included."""
    backward_peak: int
    """Highest in the backward, `saved` included, each weight's gradient gone as soon as it is made."""
    weight_gradients: int
    """Gradients of the piece's weights, as the backward makes them."""
    backward_peak_growing: int
    """Highest in the backward where these gradients stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTrace:
    """One micro batch forward and backward."""

    pieces: tuple[Piece, ...]
    layers: tuple[int, ...]
    """Number of the piece of each decoder layer, in order."""
    embedding: Piece
    rest: Piece
    shared: int
    """Kept by several layers, once in memory: rotary tables, masks."""
    notes: tuple[str, ...] = ()

    @property
    def saved(self) -> int:
        """What autograd keeps when the forward is over, autocast's copies of weights included."""
        return sum(self.pieces[n].saved for n in self.layers) + self.rest.saved + self.embedding.saved + self.shared

    @property
    def casts(self) -> int:
        """The part of `saved` that is autocast's 16-bit copies of weights."""
        return sum(self.pieces[n].casts for n in self.layers) + self.rest.casts + self.embedding.casts


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPeak:
    """The highest point of one forward and backward."""

    bytes: int
    """Activations, autocast's copies of weights and what a layer works with."""
    gradients: int
    """Gradients of weights that lie there at that point; 0 where they are counted elsewhere."""
    casts: int
    """The part of `bytes` that is 16-bit copies of weights."""
    saved: int
    """The part of `bytes` that is activations that autograd keeps for the backward."""
    where: str

    @property
    def working(self) -> int:
        """Bytes that the running layer works with."""
        return self.bytes - self.casts - self.saved


def step_peak(trace: TrainingTrace, *, growing: bool) -> StepPeak:
    """Walk the layers forward and backward and return the highest point.

    `growing`: gradients of weights come up layer by layer during the backward and belong to the sum (a step
    without accumulation). Otherwise they lie there all the time and are left out.
    """
    points = [*_forward(trace), *_backward(trace, growing)]
    return max(points, key=lambda point: point.bytes + point.gradients)


def _forward(trace: TrainingTrace) -> list[StepPeak]:
    """Layer by layer: what the layers before keep, and the layer's own peak."""
    points, saved, casts, cached = [], trace.shared, 0, 0
    for piece in (trace.embedding, *(trace.pieces[n] for n in trace.layers), trace.rest):
        points.append(
            StepPeak(
                bytes=saved + casts + cached + piece.forward_peak,
                gradients=0,
                casts=casts + cached + piece.casts + piece.cached_casts,
                saved=saved + piece.saved - piece.casts,
                where=f"forward of {piece.name}",
            )
        )
        saved, casts = saved + piece.saved - piece.casts, casts + piece.casts
        cached += piece.cached_casts
    return points


def _backward(trace: TrainingTrace, growing: bool) -> list[StepPeak]:
    """From the loss down: what is still kept, the gradients so far, and the layer's own peak."""
    points, gradients = [], 0
    saved, casts = trace.saved - trace.casts, trace.casts
    for piece in (trace.rest, *(trace.pieces[n] for n in reversed(trace.layers)), trace.embedding):
        saved, casts = saved - piece.saved + piece.casts, casts - piece.casts
        own = piece.backward_peak_growing if growing else piece.backward_peak
        points.append(
            StepPeak(
                bytes=saved + casts + own,
                gradients=gradients,
                casts=casts + piece.casts,
                saved=saved + piece.saved - piece.casts,
                where=f"backward of {piece.name}",
            )
        )
        gradients += piece.weight_gradients if growing else 0
    return points
