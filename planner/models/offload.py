"""Which modules `load_offloaded_model` leaves on the disk: transformers' own placement, on the meta model."""

from typing import Any

from planner.errors import UnsupportedError
from planner.job import Job


def disk_modules(model: Any, job: Job, *, has_fused_experts: bool) -> frozenset[str]:
    """Names of the modules whose weights stay on the disk, with all that is in them; the empty name is the whole model.

    device_map="auto_offload" is device_map="auto" with the CPU as the only device. transformers
    integrations/accelerate.py infer_auto_device_map fills it in the model's order and keeps room for the largest layer:
    from the first module on that has no room, all go to the disk.

    Raises UnsupportedError for fused experts that `oneshot` would convert.
    """
    if job.weights != "disk":
        return frozenset()
    if has_fused_experts:
        raise UnsupportedError(
            "--weights disk: planner does not follow oneshot where it converts fused experts that lie on the disk; "
            "load them with load_context, as linear ones (--linearized)"
        )
    if job.ram_for_weights_bytes is None:
        return frozenset([""])
    from transformers.integrations.accelerate import infer_auto_device_map

    placed = infer_auto_device_map(
        model, max_memory={"cpu": job.ram_for_weights_bytes}, no_split_module_classes=model._no_split_modules
    )
    return frozenset(name for name, device in placed.items() if device == "disk")
