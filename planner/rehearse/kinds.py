"""What an allocation is for, told by the functions that were running: the kinds of the meter and of plans."""

from collections.abc import Sequence
from pathlib import Path

from planner.compress.schema import Owned
from planner.rehearse.events import CodeFrame

# (part of the file's path, functions: any where empty, kind on the card, kind on the CPU). The innermost frame that is
# listed decides; of the rules for one frame the first.
_RULES: tuple[tuple[str, frozenset[str], str, str], ...] = (
    ("", frozenset({"make_empty_hessian"}), "hessian", "hessian"),
    ("", frozenset({"accumulate_hessian"}), "hessian_update", "hessian_update"),
    ("", frozenset({"prepare_batch"}), "compress_inputs", "compress_inputs"),
    ("", frozenset({"update_batch_qparams", "update_offload_parameter"}), "writeback", "model"),
    ("", frozenset({"_onload_value"}), "batch", "batch"),
    ("", frozenset({"_offload_value", "_pin_intermediate"}), "activation_cache", "activation_cache"),
    ("", frozenset({"initialize_quantization", "initialize_module_for_quantization"}), "qparams", "qparams"),
    ("observers/", frozenset(), "observer", "observer"),
    ("modifiers/gptq", frozenset(), "compress", "compress"),
    ("pruning/", frozenset({"sparsify_weight"}), "compress", "compress"),
    ("awq/", frozenset({"_apply_smoothing"}), "awq", "awq"),
    ("smoothquant/", frozenset(), "smoothquant", "smoothquant"),
    ("modeling/moe/", frozenset(), "weights", "model"),
    ("auto_round/", frozenset(), "autoround", "autoround"),
    ("offload/cache", frozenset(), "weights", "model"),
    ("transformers/modeling_utils", frozenset(), "model", "model"),
    ("/modeling_", frozenset(), "forward", "forward"),
    ("rehearse/child/models", frozenset(), "model", "model"),
    ("sequential/helpers", frozenset({"forward"}), "forward", "forward"),
    ("data/data_collator", frozenset(), "calibration_data", "calibration_data"),
    ("datasets/", frozenset(), "calibration_data", "calibration_data"),
)


def kind_of(frames: Sequence[CodeFrame], on_card: bool = True) -> str:
    """The kind of a tensor that was made here."""
    for frame in frames:
        for part, functions, card, cpu in _RULES:
            if part in frame.file and (not functions or frame.function in functions):
                return card if on_card else cpu
    return "other"


def owned(frames: Sequence[CodeFrame], script: str, copies: int, nbytes: int, on_card: bool = True) -> Owned:
    """`copies` tensors that were made at one place, as a report names them: the code, and the script's own line."""
    line = next((f"{Path(frame.file).name}:{frame.line}" for frame in frames if frame.file == script), "")
    if frames and "rehearse/child/models" in frames[0].file:
        return Owned(owner="model weights", name="model weights", role="", copies=copies, kind="model", bytes=nbytes)
    library = next((frame for frame in frames if frame.file != script), None)
    name = str(library) if library else (line or "small tensors")
    role = f"from {line}" if line and library else ""
    text = f"{name} {role}".strip() + (f" ({copies} tensors)" if copies > 1 else "")
    return Owned(owner=text, name=name, role=role, copies=max(1, copies), kind=kind_of(frames, on_card), bytes=nbytes)


def cublas_workspaces(sizes: Sequence[int]) -> list[Owned]:
    """What cuBLAS keeps, as plans name it; an empty list where there is none."""
    if not sizes:
        return []
    name = "workspace of cuBLAS"
    return [Owned(owner=name, name=name, role="", copies=len(sizes), kind="cuda_workspace", bytes=sum(sizes))]
