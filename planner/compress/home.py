"""Where the model lies while no subgraph uses it: on the CPU, on the GPU for all of the job, or in part on the disk.

compressed_tensors offload/cache/{cpu,device,disk}.py: `set_onload_device` leaves each tensor where `from_pretrained`
put it. On the GPU nothing is onloaded then, and weights are written in place. On the disk a tensor is a file; one that
is written takes the place of the link to the checkpoint.
"""

from planner.compress.context import Context
from planner.compress.holdings import DeviceName, Owner
from planner.compress.parts import EXPERTS, FUSED_EXPERTS
from planner.compress.program import Program
from planner.timeline import Handle

EMBEDDINGS = "embeddings"


def load_order(name: str) -> list[tuple[int | str, ...]]:
    """transformers core_model_loading.py `dot_natural_key`: numbers as such, those at the end of a word too."""
    return [_part_order(part) for part in name.split(".")]


def _part_order(part: str) -> tuple[int | str, ...]:
    if part.isdigit():
        return 0, int(part)
    word = part.rstrip("0123456789")
    return (1, word, int(part[len(word) :])) if word != part else (1, word)


class ModelHome:
    """The weights and qparams of one job, outside of onloading."""

    def __init__(self, context: Context, program: Program) -> None:
        self._context, self._program = context, program
        self._device: DeviceName = "gpu" if context.weights_on_gpu else "cpu"
        self._ends: list[Handle] = []
        """The embedding's and the head's weight, where they are to be untied on the GPU."""
        self._experts: Handle | None = None
        self._on_cpu: list[Handle] = []

    @property
    def cpu_bytes(self) -> int:
        """Weights and qparams in CPU memory: ranks of a torchrun job share them."""
        return sum(map(self._context.ledger.size, self._on_cpu))

    def _keep_on_cpu(self, nbytes: int, kind: str, owner: str) -> None:
        self._on_cpu.append(self._context.ledger.alloc("cpu", nbytes, kind, owner))

    def load(self) -> None:
        """from_pretrained. What stays on the disk is not read."""
        program, ledger = self._program, self._context.ledger
        if self._device == "cpu":
            self._keep_on_cpu(program.weight_bytes - program.disk_bytes, "model", "model weights")
            self._context.losses.model = self._on_cpu[-1]
            self._context.losses.draining.add(self._on_cpu[-1])
            return
        with ledger.hold("gpu", program.weight_bytes, "model", "room for the weights"):
            pass  # transformers modeling_utils.py caching_allocator_warmup: all weights are cut from one segment
        sizes = self._sizes_of_ends()
        self._ends = [ledger.alloc("gpu", size, "model", EMBEDDINGS) for size in sizes]
        if program.fused_expert_bytes:
            owner = Owner(FUSED_EXPERTS, "while they are linearized")
            self._experts = ledger.alloc("gpu", program.fused_expert_bytes, "model", owner)
        rest = program.weight_bytes - sum(sizes) - program.fused_expert_bytes - self._load_trained()
        ledger.alloc("gpu", rest, "model", "model weights")

    def _load_trained(self) -> int:
        """Layers that are trained leave the GPU meanwhile (modifiers/trained_weights.py); returns their bytes.

        Without experts that are still to be linearized: `linearize` makes these weights.
        """
        program, ledger = self._program, self._context.ledger
        if not program.tuned:
            return 0
        home = self._context.losses.trained = ledger.open("gpu", "model", "model weights")
        found = []
        for layer, block in program.tuned.items():
            left = {matrix.number for matrix in block.rotations}
            names = block.names or [""] * len(block.weights)
            pairs = zip(names, block.weights, strict=True)
            found += [(layer + name, nbytes) for number, (name, nbytes) in enumerate(pairs) if number not in left]
        if program.fused_expert_bytes:
            found = [(name, nbytes) for name, nbytes in found if EXPERTS not in name]
        for _, nbytes in sorted(found, key=lambda weight: load_order(weight[0])):
            ledger.grow(home, nbytes)
        return sum(nbytes for _, nbytes in found)

    def _sizes_of_ends(self) -> list[int]:
        program = self._program
        if not any(run.unties_embeddings for run in program.runs):
            return []
        return [program.embedding_bytes] * (1 if program.tied else 2)

    def linearize(self) -> None:
        """modeling/moe/linearize.py linearize_moe: its list keeps every fused experts module until it returns, so the
        model and all experts again are there together.

        linear_experts.py from_experts_module makes the Linears of one module on the CPU, whichever device it is on.
        """
        program, ledger, losses = self._program, self._context.ledger, self._context.losses
        owner = Owner(FUSED_EXPERTS, "while they are linearized")
        if self._experts is None:
            with ledger.hold("cpu", program.fused_expert_bytes, "model", owner):
                return
        if losses.trained is not None:
            losses.trained_experts = ledger.open("gpu", "model", "model weights")
        for tensors in program.fused_linears:
            holding = losses.trained_experts
            if holding is None:
                holding = ledger.open("gpu", "model", "model weights")
            with ledger.hold("cpu", sum(nbytes * count for nbytes, count in tensors), "model", owner):
                for nbytes, count in tensors:
                    ledger.grow(holding, nbytes * count, count)
        ledger.free(self._experts)

    def add_qparams(self) -> None:
        """initialize_quantization: empty scales and zero points beside each targeted weight."""
        program, ledger, owner = self._program, self._context.ledger, "quantization parameters"
        if self._device == "cpu" and not program.qparam_tensors:
            self._keep_on_cpu(program.qparam_bytes - program.disk_qparam_bytes, "qparams", owner)
            return
        holding = ledger.open(self._device, "qparams", owner)
        for nbytes, tensors in program.qparam_tensors:
            ledger.grow(holding, nbytes * tensors, tensors)
        if self._device == "cpu":
            self._on_cpu.append(holding)
        self._context.losses.qparams = holding
        self._context.losses.draining.add(holding)

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
            self._keep_on_cpu(program.embedding_bytes, "model", "untied lm_head")
