"""One rank of a torchrun job, alone: the library takes its distributed paths, and nobody is at the other end."""

import contextlib
import math

import torch
import torch.distributed as dist


class _Pending:
    """An async collective as NCCL's: it keeps its tensor until somebody waits for it."""

    def __init__(self, tensor):
        self._tensor = tensor

    def wait(self):
        self._tensor = None


def join(ranks: int, rank: int) -> None:
    """Become rank `rank` of `ranks`. The rank's card is the device 0; weights are its own instead of shared ones."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    for name in ("reduce", "broadcast", "all_reduce"):
        setattr(dist, name, _pending)
    dist.barrier = lambda *_args, **_kwargs: None
    dist._verify_params_across_processes = lambda *_args: None  # DistributedDataParallel asks the others
    torch.nn.parallel.DistributedDataParallel = _Alone

    import llmcompressor.pipelines.data_free.pipeline as data_free
    import llmcompressor.pipelines.sequential.pipeline as sequential
    from compressed_tensors.offload.cache.cpu import CPUCache
    from compressed_tensors.offload.cache.dist_cpu import DistributedCPUCache

    for pipeline in (data_free, sequential):
        pipeline.get_main_device = lambda: torch.device("cuda", 0)
    DistributedCPUCache.offload = CPUCache.offload  # its broadcasts have no receiver


class _Alone(torch.nn.parallel.DistributedDataParallel):
    """Reduces with nobody: what the fake group returns is no tensor, which the reducer does not take."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_comm_hook(None, _as_it_is)
        self.logger = _Untimed(self.logger)


class _Untimed:
    """A logger that does without times where there are none: a CPU build has no timer of the meter's device."""

    def __init__(self, logger):
        self._logger = logger

    def set_runtime_stats_and_log(self):
        with contextlib.suppress(RuntimeError):
            self._logger.set_runtime_stats_and_log()

    def __getattr__(self, name):
        return getattr(self._logger, name)


def _as_it_is(_state, bucket):
    done = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


def _pending(tensor, *_args, **_kwargs):
    return _Pending(tensor)


def samples(total: int, ranks: int, rank: int) -> int:
    """The rank's part of the samples (llmcompressor datasets/utils.py get_rank_partition)."""
    return math.floor(total * ((rank + 1) / ranks)) - math.floor(total * (rank / ranks))
