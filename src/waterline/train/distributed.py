"""One process, or one of several that torchrun has started, on this machine or on many.

torch.distributed reads torchrun's environment; nothing here does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from waterline.errors import InvalidArgument


@dataclass(frozen=True)
class Process:
    """One of those that train together.

    Attributes:
        rank, count: its number, from 0, and how many there are. device: where it computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """The one that writes files and talks."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """The first process's value; the others' is not looked at."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def sum(self, values: list[float]) -> list[float]:
        """Element by element, over all processes."""
        if self.count == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers: each has statistics of its own images in its BatchNorms."""
        if self.count > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, src=0)


@contextmanager
def joined(device: str = "auto") -> Iterator[Process]:
    """Join the other processes, if torchrun has started this one, and leave them at the end.

    A process that has joined already (or was joined by its own means) stays joined.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".

    Raises:
        InvalidArgument: an unknown device, or one that is not there.
    """
    is_member = distributed.is_available() and distributed.is_initialized()
    is_launched = distributed.is_available() and distributed.is_torchelastic_launched()
    chosen = _device(device, distributed.get_node_local_rank(0) if is_member or is_launched else None)
    if is_member:
        yield Process(distributed.get_rank(), distributed.get_world_size(), chosen)
    elif is_launched:
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        try:
            yield Process(distributed.get_rank(), distributed.get_world_size(), chosen)
        finally:
            distributed.destroy_process_group()
    else:
        yield Process(0, 1, chosen)


def _device(name: str, local_rank: int | None) -> torch.device:
    """Of several processes on a machine, each has a GPU of its own."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise InvalidArgument(f"there is no device {name!r}", "use auto, cpu, cuda or cuda:1") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda" or not torch.cuda.is_available():
        raise InvalidArgument(f"the device {name!r} is not there", "use auto or cpu")
    index = local_rank if device.index is None and local_rank is not None else device.index or 0
    if index >= torch.cuda.device_count():
        raise InvalidArgument(
            f"there is no GPU {index}: this machine has {torch.cuda.device_count()}",
            "start one process for each GPU: torchrun --nproc-per-node",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
