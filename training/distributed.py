"""Several processes on one run, one for each GPU, as ``torchrun`` starts them.

``torchrun --nproc-per-node 4 -m training.seg --config ...`` takes the same steps as one process:
each batch is shared out, and the gradients are averaged. Without ``torchrun`` there is a single
process, and nothing here does anything.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_PATIENCE = timedelta(hours=2)
"""How long the other processes wait for the first, which alone validates and makes data."""


def rank() -> int:
    """Return this process's number among all, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Tell whether this is the process that writes."""
    return rank() == 0


def local_gpu() -> int:
    """Return which of its machine's GPUs this process takes."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_initialized() else 0


@contextmanager
def processes(device: Literal["auto", "cpu", "cuda"]) -> Iterator[None]:
    """Be one of torchrun's processes, if it started this one, until the block's end.

    Within another such block nothing is done: processes can meet only once in their lives.

    Args:
        device: what to train on: NCCL connects GPUs, and Gloo CPUs.

    """
    if dist.is_initialized() or not dist.is_torchelastic_launched():
        yield
        return
    on_gpus = device != "cpu" and torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=_PATIENCE)
    try:
        yield
        dist.barrier()
    finally:
        dist.destroy_process_group()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process through the block before the others, who then find its files."""
    if not is_first():
        dist.barrier()
    yield
    if is_first() and world() > 1:
        dist.barrier()


def shared(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network to take steps with: its gradients are the means over the processes.

    On GPUs its batch norms see the whole batch from now on. On CPUs, where PyTorch has no such
    batch norm, they see their process's share, and the first process's statistics are the run's.
    """
    if world() == 1:
        return network
    if device.type == "cuda":
        # timm's own, since PyTorch's would drop the activations that timm fuses into batch norms.
        network = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    # A static graph may leave parameters unused, as stage 2 leaves the decoder.
    return DistributedDataParallel(network, static_graph=True)


def mean(value: Tensor) -> Tensor:
    """Return the mean over the processes."""
    if world() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world()
