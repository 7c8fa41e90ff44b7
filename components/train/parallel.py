"""Processes that learn one model together: who they are, and the model as each of them holds it.

`ddp`: every process holds all weights, gradients are averaged in large messages, on GPUs while the backward pass runs.
`fsdp`: every process holds a part of each weight, its gradient and its moments, and gathers a block's weights when the
block is used: for models that do not fit. `weights` and `moments` give both as whole tensors, so what is kept on disk
does not tell one from the other.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from millrace.tabular.network import Network

SILENCE: Final = timedelta(minutes=5)
"""A process that waits this long for another one gives up, and all are started again."""
ONE_BUCKET_MB: Final = 512
"""More gradients than a model has that is trained on CPUs."""


@dataclass(frozen=True, slots=True)
class Process:
    """Which of the processes this is, and what it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0


@contextmanager
def processes() -> Iterator[Process]:
    """Join the other processes that torchrun started; alone without its environment. One thread each on CPUs."""
    rank = int(os.environ.get("RANK", "0"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")

    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)  # vanishing moments would otherwise cost a hundred cycles each
    if world > 1:
        torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=SILENCE)

    try:
        yield Process(rank, world, device)
    finally:
        torch.set_flush_denormal(False)  # it is the thread's, and whoever called goes on in it
        if world > 1:
            torch.distributed.destroy_process_group()


class Members(nn.Module):
    """The network as it learns: its inputs → what each member says, [M, B] or [M, B, outputs]."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model.member_outputs(*inputs)


def together(model: Network, process: Process, how: str) -> nn.Module:
    """`model` as it learns with the other processes; what it answers is `Members`'."""
    if process.world == 1 or how == "fsdp":
        return Members(model)
    # On CPUs the exchange takes the core from the backward pass that it would overlap with: one message costs least.
    cuda = process.device.type == "cuda"
    where: dict[str, Any] = {"device_ids": [process.device]} if cuda else {"bucket_cap_mb": ONE_BUCKET_MB}
    return DistributedDataParallel(Members(model), forward_sync_buffers=False, gradient_as_bucket_view=True, **where)


def divided(model: Network, process: Process) -> Network:
    """`model` with every weight divided over the processes, gathered block by block when it is used."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    from torch.distributed.tensor import Shard

    def longest_side(weight: nn.Parameter) -> Shard:
        even = [side for side, size in enumerate(weight.shape) if size % process.world == 0]
        return Shard(max(even, key=lambda side: weight.shape[side], default=0))

    # The logits are a view of the head's output; nothing here changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    for block in model.tower.blocks:
        fully_shard(block, shard_placement_fn=longest_side)
    fully_shard(model, shard_placement_fn=longest_side)
    register_fsdp_forward_method(model, "member_outputs")
    return model


def apart(parallel: nn.Module) -> AbstractContextManager[None]:
    """Within it gradients stay with the process. Divided weights have nowhere to keep a whole one: no effect there."""
    return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) else nullcontext()


def held(model: Network) -> list[Tensor]:
    """The weights, or the parts of them, that this process holds."""
    return [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]


def weights(model: Network) -> dict[str, Tensor]:
    """A copy of all weights and buffers, whole. Where they are divided all processes call it, the first gets them."""
    if not _is_divided(model):
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    state: dict[str, Any] = get_model_state_dict(model, options=_whole())
    return state


def moments(model: Network, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state, whole, under the same terms as `weights`."""
    if not _is_divided(model):
        return optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_whole())
    return state


def load_weights(model: Network, whole: dict[str, Tensor]) -> None:
    """The inverse of `weights`, from the same tensors in every process."""
    if not _is_divided(model):
        model.load_state_dict(whole)
        return
    from torch.distributed.checkpoint.state_dict import set_model_state_dict

    set_model_state_dict(model, dict(whole), options=_whole())


def load_moments(model: Network, optimizer: torch.optim.Optimizer, whole: dict[str, Any]) -> None:
    """The inverse of `moments`, from the same tensors in every process."""
    if not _is_divided(model):
        optimizer.load_state_dict(whole)
        return
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    set_optimizer_state_dict(model, optimizer, whole, options=_whole())


def add_up(tensor: Tensor, process: Process) -> Tensor:
    """The sum over all processes, in place."""
    if process.world > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def _is_divided(model: Network) -> bool:
    return hasattr(next(model.parameters()), "to_local")


def _whole() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)
