"""`GpuEngine`: networks on an NVIDIA GPU. Imported where one is asked for, since it imports PyTorch and Triton."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

import waterline
from waterline.analysis import Analysis, of_plan
from waterline.api import environment
from waterline.api.arrays import is_torch
from waterline.api.engine import Shapes
from waterline.errors import InvalidArgument
from waterline.graph import Graph
from waterline.machine.gpu import Gpu
from waterline.planner import Plan, TuningTask
from waterline.planner.gpu import GpuTarget, names
from waterline.runtime.gpu import profile
from waterline.runtime.gpu.device import Device, calibrated, find_device
from waterline.runtime.gpu.program import GpuProgram
from waterline.runtime.gpu.tuning import GpuTrial, fingerprint, label
from waterline.runtime.gpu.weights import GpuWeights
from waterline.runtime.measured_layers import MeasuredLayers
from waterline.runtime.profile import Report
from waterline.runtime.tuning import MakeTrial, OnProgress, Tuned, tune_with

# What a tensor that enters may be of: it is rounded to the network's type.
ACCEPTED = (torch.float32, torch.float16, torch.bfloat16)
STEPS = 4  # sizes of batches between a power of two and the next: 8, 10, 12, 14, 16, 20, ...


@dataclass(frozen=True)
class GpuEngine:
    """A GPU that computes in a precision."""

    device: Device
    dtype: str
    threads = 1
    programs_kept = 16

    @property
    def target(self) -> GpuTarget:
        return GpuTarget(self.device.gpu, self.dtype)

    @property
    def rates(self) -> GpuTarget:
        return self.target

    def readable(self, model: Any, example_inputs: Any) -> tuple[Any, Any]:
        """A module on the GPU, or in half precision, is read from a copy."""
        if isinstance(model, torch.nn.Module):
            tensors = [each for each in (*model.parameters(), *model.buffers()) if each.is_floating_point()]
            if any(each.device.type != "cpu" or each.dtype != torch.float32 for each in tensors):
                model = copy.deepcopy(model).to("cpu").float()

        def on_host(value: Any) -> Any:
            is_read = isinstance(value, torch.Tensor) and value.dtype in ACCEPTED
            return value.detach().to("cpu", torch.float32) if is_read else value

        return model, pytree.tree_map(on_host, example_inputs)

    def shapes(self, wanted: Shapes, own: Shapes, takes_images_alone: Callable[[], bool]) -> Shapes:
        """Batches rounded up, so that a few CUDA graphs serve all of them; not where images depend on each other."""
        batches = {shape[0] for shape in wanted if shape}
        if wanted == own or not all(wanted) or len(batches) != 1 or not takes_images_alone():
            return wanted
        (n,) = batches
        return tuple((rounded_batch(n), *shape[1:]) for shape in wanted)

    def array(self, value: Any, name: str) -> torch.Tensor:
        if is_torch(value):
            return self._tensor(value, name)
        if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
            try:
                tensor = torch.from_dlpack(value)
            except (RuntimeError, BufferError, TypeError, ValueError) as error:
                raise InvalidArgument(f"input {name!r} cannot be read through DLPack: {error}") from error
            return self._tensor(tensor, name)
        if not hasattr(value, "__array__"):
            kind = type(value).__name__
            hint = "pass a torch tensor or a NumPy array"
            raise InvalidArgument(f"input {name!r} is of type {kind}, not an array", hint)
        array = np.asarray(value)
        if array.dtype not in (np.float32, np.float16):
            raise _wrong_dtype(name, str(array.dtype), "x.astype('float32')")
        # A copy: PyTorch has no negative strides, and wants memory that may be written to.
        return torch.from_numpy(np.array(array, order="C")).to(self.device.torch_device)

    def _tensor(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        wanted = self.device.torch_device
        if tensor.device != wanted:
            raise InvalidArgument(
                f"input {name!r} is on {tensor.device}, the network on {wanted}", f"move it there: x.to('{wanted}')"
            )
        if tensor.layout != torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise InvalidArgument(f"input {name!r} has the layout {layout}", "make it dense: x.to_dense()")
        if tensor.dtype not in ACCEPTED:
            raise _wrong_dtype(name, str(tensor.dtype).removeprefix("torch."), "x.float()")
        return tensor.detach()

    def result(self, array: torch.Tensor, example: Any) -> Any:
        """A tensor on the GPU, or, for callers with NumPy arrays, one of these in float32."""
        return array if is_torch(example) else array.float().cpu().contiguous().numpy()

    @property
    def algorithm_names(self) -> Sequence[str]:
        return names()

    def measured_layers(self) -> MeasuredLayers:
        return _measured_layers(self.target)

    def tune(
        self,
        tasks: Sequence[TuningTask],
        wanted: Sequence[TuningTask],
        seconds: float,
        on_progress: OnProgress | None = None,
    ) -> Tuned:
        def trials(task: TuningTask) -> MakeTrial:
            return lambda offers, like: GpuTrial(task.spec, offers, self.target, self.device, like)

        memory = self.measured_layers()
        return tune_with(trials, tasks, wanted, memory, threads=self.threads, seconds=seconds, on_progress=on_progress)

    def weights(self, graph: Graph, *, releases: bool) -> GpuWeights:
        return GpuWeights(graph.constants, self.target, self.device.torch_device)

    def program(self, plan: Plan, weights: GpuWeights) -> GpuProgram:
        return GpuProgram(plan, weights, self.target, self.device)

    def run(self, program: GpuProgram, arrays: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        results = program.run(arrays)
        given = [array.shape[0] for array in arrays if array.ndim]
        planned = [shape[0] for _, shape in program.plan.inputs if shape]
        return results if given == planned else [result[: given[0]] for result in results]

    def measure(self, program: GpuProgram, arrays: Sequence[torch.Tensor], seconds: float) -> Report:
        return profile.measure(program, arrays, seconds)

    def analyse(self, plan: Plan) -> Analysis:
        return of_plan(plan, self.rates, 1)


@functools.cache
def _measured_layers(target: GpuTarget) -> MeasuredLayers:
    return MeasuredLayers(environment.cache_folder(), fingerprint(target, waterline.__version__), label)


def engine(device: str, dtype: str) -> GpuEngine:
    """The engine of "cuda" or "cuda:N". Raises InvalidArgument where there is no such GPU."""
    found = find_device(device)
    return GpuEngine(calibrated(found, environment.cache_folder(), waterline.__version__), dtype)


def engine_for(gpu: Gpu, dtype: str) -> GpuEngine:
    """Of a GPU that is not here: it plans, and nothing can run on it."""
    return GpuEngine(Device(torch.device("meta"), gpu), dtype)


def rounded_batch(n: int) -> int:
    """A few images more, at most a quarter, so that there are few different numbers."""
    step = max(1, (1 << max(n - 1, 0).bit_length()) // 2 // STEPS)
    return -(-n // step) * step


def _wrong_dtype(name: str, dtype: str, conversion: str) -> InvalidArgument:
    accepted = ", ".join(str(each).removeprefix("torch.") for each in ACCEPTED)
    return InvalidArgument(f"input {name!r} has dtype {dtype}, accepted are {accepted}", f"convert it: {conversion}")


__all__ = ["GpuEngine", "engine", "engine_for", "rounded_batch"]
