"""`Place`: where cases are measured, and what was asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

import waterline
from waterline.api.gpu import GpuEngine
from waterline.codegen.gpu.kernel import triton_version
from waterline.machine.gpu import Gpu
from waterline.runtime.gpu.device import Device, find_device, measure_rates, with_rates


@dataclass(frozen=True)
class Place:
    """A GPU, or Triton's interpreter, where results are checked and nothing is timed.

    Attributes:
        batches: instead of each part's own (empty: these). is_quick: the smallest cases only.
    """

    device: Device
    can_time: bool
    batches: tuple[int, ...] = ()
    is_quick: bool = False

    @classmethod
    def found(cls, name: str, batches: tuple[int, ...] = (), *, is_quick: bool = False) -> Place:
        """With the rates that PyTorch's matrix product and copy reach now.

        Raises:
            InvalidArgument: there is no such GPU.
        """
        device = find_device(name)
        if device.is_interpreted:
            return cls(device, False, batches, is_quick)
        torch.cuda.set_device(device.torch_device)
        gpu = with_rates(device.gpu, measure_rates(device), waterline.__version__, time.time())
        torch.cuda.empty_cache()
        return cls(replace(device, gpu=gpu), True, batches, is_quick)

    @property
    def gpu(self) -> Gpu:
        return self.device.gpu

    @property
    def torch_device(self) -> torch.device:
        return self.device.torch_device

    @property
    def is_interpreted(self) -> bool:
        return self.device.is_interpreted

    def precision(self, wanted: str) -> str:
        """What stands for it here: the interpreter computes bf16 wrongly, and f16 by the same kernels."""
        return "f16" if self.is_interpreted and wanted == "bf16" else wanted

    def engine(self, precision: str) -> GpuEngine:
        """Of networks, with the rates measured here."""
        return GpuEngine(self.device, precision)

    def batches_of(self, own: tuple[int, ...]) -> tuple[int, ...]:
        """Those asked for, else a part's own; of a quick run or in the interpreter the smallest."""
        wanted = self.batches or own
        return (min(wanted),) if self.is_quick or self.is_interpreted else wanted

    def synchronise(self) -> None:
        """Waits for the GPU. Raises RuntimeError where a kernel has ended badly."""
        if not self.is_interpreted:
            torch.cuda.synchronize(self.torch_device)

    def versions(self) -> dict[str, str]:
        found = {"torch": torch.__version__, "triton": triton_version()}
        if torch.version.cuda and torch.backends.cudnn.is_available():
            found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
        return found


__all__ = ["Place"]
