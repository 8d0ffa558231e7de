"""How operators that are no convolutions are computed on a GPU: by Triton kernels where they serve, else by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from waterline.codegen.gpu.kernel import GpuCall, LibraryCall
from waterline.errors import InvalidArgument
from waterline.graph.ops import LayerNorm, Op
from waterline.operators import gpu, gpu_torch
from waterline.spec import TensorView, channels_last

TRITON, TORCH = "triton", "torch"


@dataclass(frozen=True)
class OperatorCalls:
    """Calls on tensors named "0", "1", ... and "y" (of several results "y0", "y1", ...), and whose they are."""

    by: str
    calls: tuple[GpuCall, ...]


def operator_calls(
    op: Op, inputs: Sequence[TensorView], outputs: Sequence[TensorView], precision: str
) -> OperatorCalls:
    """Kernels want tensors without gaps: images in NHWC order, others, and what is normalised, as their shapes say."""
    views = [*inputs, *outputs]
    if len(outputs) == 1 and all(_is_served(view, is_image=not isinstance(op, LayerNorm)) for view in views):
        try:
            return OperatorCalls(TRITON, gpu.launches(op, [view.shape for view in inputs], precision))
        except InvalidArgument:
            pass  # kernels do not compute it, or not with these sizes
    names = [str(i) for i in range(len(inputs))]
    results = ["y"] if len(outputs) == 1 else [f"y{i}" for i in range(len(outputs))]

    def evaluate(*tensors: torch.Tensor) -> None:
        gpu_torch.evaluate(op, tensors[: len(names)], tensors[len(names) :])

    return OperatorCalls(TORCH, (LibraryCall(evaluate, (*names, *results)),))


def copy_calls(source: TensorView, target: TensorView) -> OperatorCalls:
    """Moves a tensor to another layout: between NCHW and NHWC by kernels, all others by PyTorch."""
    if len(source.shape) == 4 and 0 not in source.shape:
        rows, pixels = tuple(range(4)), channels_last(4)
        if source.is_dense(rows) and target.is_dense(pixels):
            return OperatorCalls(TRITON, gpu.to_nhwc(source.shape))
        if source.is_dense(pixels) and target.is_dense(rows):
            return OperatorCalls(TRITON, gpu.to_nchw(source.shape))
    return OperatorCalls(TORCH, (LibraryCall(gpu_torch.copy, ("0", "y")),))


def _is_served(view: TensorView, *, is_image: bool) -> bool:
    rank = len(view.shape)
    return view.is_dense(channels_last(4) if rank == 4 and is_image else tuple(range(rank)))


__all__ = ["TORCH", "TRITON", "OperatorCalls", "copy_calls", "operator_calls"]
