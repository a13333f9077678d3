"""Where the model lies while no subgraph uses it: on the CPU, on the GPU for all of the job, or in part on the disk.

compressed_tensors offload/cache/{cpu,device,disk}.py: `set_onload_device` leaves each tensor where `from_pretrained`
put it. On the GPU nothing is onloaded then, and weights are written in place. On the disk a tensor is a file; one that
is written takes the place of the link to the checkpoint.
"""

from planner.compress.context import Context
from planner.compress.holdings import DeviceName, Owner
from planner.compress.parts import FUSED_EXPERTS
from planner.compress.program import Program
from planner.timeline import Handle

EMBEDDINGS = "embeddings"
FUSED = Owner(FUSED_EXPERTS, "while they are linearized")


class ModelHome:
    """The weights and qparams of one job, outside of onloading."""

    def __init__(self, context: Context, program: Program) -> None:
        self._context, self._program = context, program
        self._device: DeviceName = "gpu" if context.weights_on_gpu else "cpu"
        self._ends: list[Handle] = []
        """The embedding's and the head's weight, where they are to be untied on the GPU."""
        self._experts: list[Handle] = []
        """The fused experts on the GPU, module by module."""

    def load(self) -> None:
        """from_pretrained. What stays on the disk is not read."""
        program, ledger = self._program, self._context.ledger
        if self._device == "cpu":
            ledger.alloc("cpu", program.weight_bytes - program.disk_bytes, "model", "model weights")
            return
        with ledger.hold("gpu", program.weight_bytes, "model", "room for the weights"):
            pass  # transformers modeling_utils.py caching_allocator_warmup: all weights are cut from one segment
        sizes = self._sizes_of_ends()
        self._ends = [ledger.alloc("gpu", size, "model", EMBEDDINGS) for size in sizes]
        rest = program.weight_bytes - sum(sizes) - program.fused_expert_bytes
        share = rest // (len(program.linear_experts) + 1)
        for sizes_of_linears in program.linear_experts:  # between the layers' other weights: they leave one gap each
            ledger.alloc("gpu", share, "model", "model weights")
            nbytes = sum(size * number for size, number in sizes_of_linears)
            self._experts.append(ledger.alloc("gpu", nbytes, "model", FUSED))
        ledger.alloc("gpu", rest - share * len(program.linear_experts), "model", "model weights")

    def _sizes_of_ends(self) -> list[int]:
        program = self._program
        if not any(run.unties_embeddings for run in program.runs):
            return []
        return [program.embedding_bytes] * (1 if program.tied else 2)

    def linearize(self) -> None:
        """modeling/moe/linearize.py linearize_moe: its list keeps every fused experts module until it returns, so the
        model and all experts again are there together.

        linear_experts.py from_experts_module makes the Linears of one module on the CPU, whichever device it is on;
        each is a tensor of its own on the GPU.
        """
        program, ledger = self._program, self._context.ledger
        if not self._experts:
            with ledger.hold("cpu", program.fused_expert_bytes, "model", FUSED):
                return
        holding = ledger.open("gpu", "model", "model weights")
        for handle, sizes in zip(self._experts, program.linear_experts, strict=True):
            with ledger.hold("cpu", ledger.size(handle), "model", FUSED):
                for size, number in sizes:
                    ledger.grow(holding, size * number, number)
        for handle in self._experts:
            ledger.free(handle)
        self._experts = []

    def add_qparams(self) -> None:
        """initialize_quantization: empty scales and zero points beside each targeted weight."""
        program, ledger = self._program, self._context.ledger
        if self._device == "cpu":
            ledger.alloc("cpu", program.qparam_bytes - program.disk_qparam_bytes, "qparams", "quantization parameters")
            return
        holding = ledger.open("gpu", "qparams", "quantization parameters")
        for nbytes, tensors in program.qparam_tensors:
            ledger.grow(holding, nbytes * tensors, tensors)

    def untie(self) -> None:
        """utils/transformers.py untie_word_embeddings: both weights cloned in turn, onloaded before if they have to.

        The old weight, its clone and the next clone are referred to by the loop's names.
        """
        program, ledger = self._program, self._context.ledger
        if self._ends:
            old, self._ends = self._ends, []
            for _ in range(2):
                self._ends.append(ledger.alloc("gpu", program.embedding_bytes, "model", EMBEDDINGS))
                if len(old) > 1 or len(self._ends) > 1:
                    ledger.free(old.pop(0))
            return
        context, on_disk = self._context, self._context.is_on_disk(program.embedding)
        with context.frame("weights", "untie_word_embeddings") as frame:
            for name in (program.embedding, program.head):
                frame.bind("weight", context.copied_to_gpu(name, program.embedding_bytes))
                frame.assign("clone", program.embedding_bytes)
                if context.is_on_disk(name):
                    context.copied_to_disk(program.embedding_bytes, Owner(name, "untied"))
        if program.tied and not on_disk:
            ledger.alloc("cpu", program.embedding_bytes, "model", "untied lm_head")
