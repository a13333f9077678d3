"""The generation that many scripts run after `oneshot`: `dispatch_model(model)`, then `model.generate`.

compressed_tensors offload/dispatch.py `dispatch_model` puts whole modules on the card as long as it keeps
max(5 % of the model, 1 GB) + 2048 x intermediate_size x itemsize free; the rest stays in RAM. The first forward undoes
the compression (model_compressor.py `ct_decompress_hook`): dense weights again, module by module.
"""

from planner.compress.schema import Plan
from planner.sizing.host_constants import HostConstants
from planner.sizing.host_facts import HostModel
from planner.sizing.host_parts import Surroundings
from planner.sizing.weight_pages import WeightPages, WeightWalk


def kept_free(model: HostModel, constants: HostConstants, model_bytes: int) -> int:
    """Bytes that dispatch_model keeps free on a card."""
    share = model_bytes * constants.dispatch_kept_percent // 100
    rows = constants.dispatch_tokens * model.intermediate_size * model.itemsize
    return max(share, constants.dispatch_kept_least) + rows


def on_card(plan: Plan, model: HostModel, constants: HostConstants) -> int:
    """Bytes of the compressed model that go to the card."""
    compressed = model.weight_bytes - sum(m.weight_bytes - m.copy_bytes for m in model.compressed)
    room = plan.job.gpu_memory_bytes - kept_free(model, constants, compressed)
    return max(0, min(compressed, room))


def generation(plan: Plan, walk: WeightWalk, pages: WeightPages, around: Surroundings) -> tuple[WeightPages, int]:
    """Weights and compressed copies in RAM while text is generated: dense again for what is not on the card."""
    model = walk.model
    compressed = model.weight_bytes - sum(m.weight_bytes - m.copy_bytes for m in model.compressed)
    there = on_card(plan, model, walk.constants) if around.setting.gpu else 0
    share = 1 - there / max(1, compressed)
    dense = sum(m.weight_bytes for m in model.compressed)
    kept = 0 if share == 0 else pages.mapped  # no view of the files is left once all is on the card
    return WeightPages(mapped=kept, copies=int((pages.copies + dense) * share), written=pages.written), 0
