"""A plan made ready to run on a GPU: memory, packed weights, and all its launches in one CUDA graph.

What enters is copied into tensors of the program's own, in NHWC order, and what comes out is copied from some: a graph
has the addresses of its tensors written in. In Triton's interpreter launches run one after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from waterline.algorithms.gpu import RESIDUAL, TORCH_TYPES, X, Y
from waterline.codegen.gpu.ahead import compile_ahead
from waterline.codegen.gpu.kernel import GpuCall, GpuLaunch
from waterline.graph.block import BlockSpec
from waterline.planner import Plan, Step, Storage
from waterline.planner.gpu import GpuTarget
from waterline.runtime.gpu.device import Device
from waterline.runtime.gpu.timing import Repeated, record
from waterline.runtime.gpu.weights import GpuWeights
from waterline.runtime.locks import RenewedLock
from waterline.spec import TensorView

_log = logging.getLogger("waterline.gpu")

STEP_REPEATS = 10  # of a step in its graph


@dataclass(frozen=True)
class BoundGpuCall:
    """A call of a step with its tensors."""

    step: int
    call: GpuCall
    tensors: Mapping[str, torch.Tensor]

    def run(self) -> None:
        self.call.run(self.tensors)


class GpuProgram:
    """A plan bound to memory of its own. Runs happen one after the other, whoever asks for them."""

    def __init__(self, plan: Plan, weights: GpuWeights, target: GpuTarget, device: Device) -> None:
        self.plan = plan
        self.target = target
        self.device = device
        self._dtype = TORCH_TYPES[target.precision]
        self._weights = weights
        self._arena = torch.empty(max(plan.arena_bytes, 1), dtype=torch.uint8, device=device.torch_device)
        self._roots: dict[str, torch.Tensor] = {}
        for name, buffer in plan.buffers.items():
            if buffer.kind in ("input", "output"):
                # Zeros: a call for fewer images than these leaves the others as they are.
                self._roots[name] = torch.zeros(max(buffer.elems, 1), dtype=self._dtype, device=device.torch_device)
        self.calls = [call for index, step in enumerate(plan.steps) for call in self._bind(index, step)]
        self._inputs = self._edges("input", plan.inputs)
        self._outputs = self._edges("output", plan.outputs)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._done: torch.cuda.Event | None = None
        self._lock = RenewedLock()

    # ---- tensors ------------------------------------------------------------------------------------------------
    def _bind(self, index: int, step: Step) -> list[BoundGpuCall]:
        results = [self._tensor(storage) for storage in step.outputs]
        tensors = {Y: results[0]} if len(results) == 1 else {f"{Y}{i}": each for i, each in enumerate(results)}
        if step.spec is None or isinstance(step.spec, BlockSpec):
            tensors |= {str(i): self._tensor(storage) for i, storage in enumerate(step.inputs)}
        else:
            tensors[X] = self._tensor(step.inputs[0])
            if step.spec.epilogue.residual:
                tensors[RESIDUAL] = self._tensor(step.inputs[-1])
        if step.spec is None:
            return [BoundGpuCall(index, call, tensors) for call in self.target.operator_calls(step).calls]
        made = self.target.implementation(step)
        offsets = dict(step.workspaces)
        for each in made.workspaces:
            dtype = TORCH_TYPES[each.precision or self.target.precision]
            tensors[each.name] = self._at(offsets[each.name], each.elems, dtype)
        tensors |= self._weights.of(step)
        return [BoundGpuCall(index, call, tensors) for call in made.launches]

    def _at(self, offset_bytes: int, elems: int, dtype: torch.dtype) -> torch.Tensor:
        return self._arena[offset_bytes : offset_bytes + elems * dtype.itemsize].view(dtype)

    def _tensor(self, storage: Storage) -> torch.Tensor:
        """A view with the logical shape."""
        buffer = self.plan.buffers[storage.root]
        if buffer.kind == "constant":
            root = self._weights.constant(buffer.constant).reshape(-1)
        elif buffer.kind == "arena":
            root = self._at(buffer.offset_bytes, buffer.elems, self._dtype)
        else:
            root = self._roots[storage.root]
        return _view(root, storage.view, storage.offset)

    def _edges(self, kind: str, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> list[torch.Tensor]:
        """The program's own tensors of the caller's, in order."""
        roots = {buffer.index: name for name, buffer in self.plan.buffers.items() if buffer.kind == kind}
        layouts = self.target.layouts
        return [_view(self._roots[roots[i]], layouts.edge(shape), 0) for i, (_, shape) in enumerate(tensors)]

    # ---- running ------------------------------------------------------------------------------------------------
    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Runs once on the current stream.

        Args:
            inputs: of the plan's shapes, or with fewer images: on the program's device, of any strides and floating
                point type.

        Returns:
            New tensors of the program's type, images in channels-last order, with all images of the plan.
        """
        with self._lock, torch.cuda.device_of(self._arena):
            if self._graph is None and self.calls and not self.device.is_interpreted:
                self._graph = self._recorded()
            if self._done is not None:  # another stream may be at work on the same memory
                torch.cuda.current_stream().wait_event(self._done)
            for own, given in zip(self._inputs, inputs, strict=True):
                (own[: given.shape[0]] if given.shape else own).copy_(given, non_blocking=True)
            if self._graph is None:
                self.launch()
            else:
                self._graph.replay()
            results = [output.clone() for output in self._outputs]
            if not self.device.is_interpreted:
                self._done = torch.cuda.Event()
                self._done.record()
            return results

    def _recorded(self) -> torch.cuda.CUDAGraph:
        launches = [bound.call for bound in self.calls if isinstance(bound.call, GpuLaunch)]
        compile_ahead((launch, self.target.precision) for launch in launches)
        _log.info("%s: recording %d launches in a CUDA graph", self.plan.network, len(self.calls))
        return record(self.launch, 1, self.device.torch_device)

    def launch(self) -> None:
        """All calls, on what lies in the inputs."""
        _launch(self.calls)

    @cached_property
    def step_runs(self) -> list[Repeated | None]:
        """Each step by itself, several times in a CUDA graph; None for one that launches nothing."""
        return [
            Repeated(partial(_launch, calls), STEP_REPEATS, self.device.torch_device) if calls else None
            for calls in self.by_step
        ]

    @cached_property
    def whole_run(self) -> Repeated:
        """The network on what lies in its inputs."""
        return Repeated(self.launch, 1, self.device.torch_device)

    @property
    def by_step(self) -> list[list[BoundGpuCall]]:
        """The calls of each step."""
        found: list[list[BoundGpuCall]] = [[] for _ in self.plan.steps]
        for call in self.calls:
            found[call.step].append(call)
        return found


def _launch(calls: Sequence[BoundGpuCall]) -> None:
    for call in calls:
        call.run()


def _view(root: torch.Tensor, view: TensorView, offset: int) -> torch.Tensor:
    return torch.as_strided(root, view.shape, view.strides, root.storage_offset() + offset)


__all__ = ["BoundGpuCall", "GpuProgram"]
