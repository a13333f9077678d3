"""AWQ's copies of its parents' arguments on the CPU: one of each tensor for all who are passed it."""

from planner.compress.context import Context
from planner.compress.forward import SubgraphForward
from planner.compress.modifiers.awq_arguments import ParentsArguments
from planner.models.traces import Call, CallValue, ModelTrace
from tests import toys

COS = CallValue("position_embeddings.0", 100, (10, 10), read=0)
CALL = Call(module="", rows=10, columns=10, itemsize=1, contiguous=True, dims=(10, 10), arguments=(COS,))


class OneCrossing(SubgraphForward):
    """All that is passed is the crossing 7."""

    def crossing(self, value: CallValue) -> int | None:
        return 7


def arguments() -> tuple[ParentsArguments, Context]:
    context = Context(toys.job())
    context.forward = OneCrossing(context, ModelTrace((), {}, 0, 0))
    return ParentsArguments(context, offload=True), context


def test_parents_of_one_subgraph_share_a_copy() -> None:
    kept, context = arguments()
    for parent in ("attention", "mlp"):
        kept.keep(parent, CALL)
    assert context.ledger.live("cpu") == 100
    assert kept.is_shared("mlp")


def test_a_copy_that_outlives_its_subgraph_is_shared_by_no_later_parent() -> None:
    kept, context = arguments()
    for parent in ("attention", "mlp", "experts"):
        kept.keep(parent, CALL)
        kept.end_epoch()
    assert context.ledger.live("cpu") == 3 * 100
    assert not kept.is_shared("experts")
    for parent, left in (("mlp", 200), ("experts", 100), ("attention", 0)):
        popped = kept.pop(parent)
        assert popped
        kept.pin(parent, popped)
        context.ledger.free(popped.handle)
        assert context.ledger.live("cpu") == left
