"""`GpuAlgorithm`: what `Algorithm` is for a CPU, for Triton kernels.

Tensors are PyTorch's, activations NHWC. All that an algorithm does is data: a layer is some launches, with tensors by
name, which a runtime runs, records or compiles ahead of time.

Precisions: "f16", "bf16": tensors of that type, sums in f32. "f32": tensors in f32, products exact. "tf32": tensors in
f32, products of operands rounded to 10 bits of mantissa.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from waterline.algorithms.base import Refusal
from waterline.codegen.gpu.kernel import GpuCall
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import ConvSpec

# Names of a layer's tensors in launches. What an algorithm packs or needs beside them has other names.
X, BIAS, RESIDUAL, Y = "x", "bias", "residual", "y"

TORCH_TYPES = {"f32": torch.float32, "tf32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# Triton's name for how `tl.dot` multiplies f32 operands.
INPUT_PRECISION = {"f32": "ieee", "tf32": "tf32", "f16": "ieee", "bf16": "ieee"}


@dataclass(frozen=True)
class GpuCost:
    """Predicted seconds, the operations that are executed, and the bytes that move to and from memory."""

    seconds: float
    flops: float
    moved_bytes: float


@dataclass(frozen=True)
class Workspace:
    """Memory beside the layer's tensors: elements, of the layer's precision or another."""

    name: str
    elems: int
    precision: str = ""

    def size_bytes(self, precision: str) -> int:
        """With layers of `precision`."""
        return self.elems * PRECISION_BYTES[self.precision or precision]


@dataclass(frozen=True)
class GpuImplementation:
    """A layer: launches one after the other, and their workspaces."""

    launches: tuple[GpuCall, ...]
    workspaces: tuple[Workspace, ...] = field(default=())

    def run(self, tensors: Mapping[str, torch.Tensor], precision: str) -> None:
        """Runs on tensors by name, all of one device; workspaces are made here."""
        device = tensors[X].device
        made = {
            each.name: torch.empty(each.elems, dtype=TORCH_TYPES[each.precision or precision], device=device)
            for each in self.workspaces
        }
        with torch.cuda.device_of(tensors[X]):
            for launch in self.launches:
                launch.run({**tensors, **made})


class GpuAlgorithm:
    """One way to compute a convolution on a GPU. Attributes and methods are those of `Algorithm`; variants are
    algorithms of their own, with their whole names."""

    name: str
    is_last_resort: bool = False  # taken only where no other algorithm serves

    def label(self, config: Any) -> str:
        return self.name

    def accuracy(self, precision: str) -> str:
        """The policy that it needs at least: "strict" where it is no less accurate than direct summation."""
        return "strict"

    def refuse(self, spec: ConvSpec, gpu: Gpu, precision: str) -> Refusal | None:
        """Why it does not serve the layer, or None."""
        raise NotImplementedError

    def configs(self, spec: ConvSpec, gpu: Gpu, precision: str) -> Sequence[Any]:
        """Few, legal, the cheapest first."""
        raise NotImplementedError

    def cost(self, spec: ConvSpec, config: Any, gpu: Gpu, precision: str) -> GpuCost:
        raise NotImplementedError

    def tolerance(self, spec: ConvSpec, precision: str) -> float:
        """How much larger the error of an output may be than direct summation's."""
        return 1.0

    def implement(self, spec: ConvSpec, config: Any, gpu: Gpu, precision: str) -> GpuImplementation:
        """For dense NHWC tensors: x (n, h, w, c), y and residual (n, p, q, k)."""
        raise NotImplementedError

    def pack(self, spec: ConvSpec, config: Any, weight: torch.Tensor, precision: str) -> dict[str, torch.Tensor]:
        """The weight (k, c/g, r, s) in f32 as the launches read it, on the weight's own device."""
        raise NotImplementedError


def roofline(flops: float, moved_bytes: float, gpu: Gpu, precision: str, efficiency: float = 1.0) -> GpuCost:
    """The time of arithmetic at a share of the peak or of memory, whichever is longer."""
    seconds = max(flops / (gpu.peak(precision) * efficiency), moved_bytes / gpu.memory_bytes_per_s)
    return GpuCost(seconds, flops, moved_bytes)


__all__ = [
    "BIAS",
    "INPUT_PRECISION",
    "RESIDUAL",
    "TORCH_TYPES",
    "GpuAlgorithm",
    "GpuCost",
    "GpuImplementation",
    "Workspace",
    "X",
    "Y",
    "roofline",
]
