"""What the parts of a model are, by what reaches them. Pure."""

from typing import Literal

UnitKind = Literal["embedding", "vision", "audio", "projector", "decoder", "norm", "head", "other"]
"""What a unit is. `decoder`: a layer of the text decoder, or a part of one; `vision`, `audio`: a tower, whole."""

TOWERS: tuple[UnitKind, ...] = ("vision", "audio")
BESIDE_TEXT: tuple[UnitKind, ...] = (*TOWERS, "projector")
"""What text alone never reaches: towers, and what turns their outputs into tokens of the decoder."""
