"""The target of a GPU: its algorithms in Triton, its layouts and prices. Imports PyTorch and Triton, runs nothing.

A choice is made for the batch at hand: how many tiles there are for all multiprocessors decides about a kernel's config
more than anything else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from waterline.algorithms.base import Refusal
from waterline.algorithms.gpu import GpuAlgorithm, GpuImplementation
from waterline.algorithms.gpu_operators import OperatorCalls, copy_calls, operator_calls
from waterline.algorithms.gpu_registry import GPU_BLOCK_REGISTRY, GPU_CONFIGS, GPU_REGISTRY
from waterline.algorithms.operator_cost import passes
from waterline.graph.block import BlockSpec
from waterline.machine.gpu import CACHE_SPEED, LAUNCH_SECONDS, PRECISION_BYTES, Gpu
from waterline.planner import codec
from waterline.planner.blocks import Fusion, Pricing, Way, group_by_time
from waterline.planner.grouping import Group
from waterline.planner.lower import Copy, Layer, Layouts, Lowered
from waterline.planner.plan import Candidate, Step
from waterline.planner.target import LayerSeconds
from waterline.spec import ConvSpec, channels_last

for _class in GPU_CONFIGS:
    codec.register(_class)


@dataclass(frozen=True)
class GpuTarget:
    """A GPU that computes in `precision`. Its rates have the names of `Machine`'s: one core is the whole processor, and
    its second-level cache is the last one before memory."""

    gpu: Gpu
    precision: str
    registry = GPU_REGISTRY
    block_names = tuple(dict.fromkeys(each.name.partition(":")[0] for each in GPU_BLOCK_REGISTRY))
    layouts = Layouts(pads_first_layers=False, places_concats=False, has_dense_images=True, has_nhwc_edges=True)
    cores = 1

    @property
    def name(self) -> str:
        return self.gpu.name

    @property
    def where(self) -> tuple[Gpu, str]:
        return (self.gpu, self.precision)

    # ---- rates --------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        return self.gpu.to_dict()

    def peak(self, threads: int = 1) -> float:
        return self.gpu.peak(self.precision)

    def bytes_per_s(self, level: str, threads: int = 1) -> float:
        """`level` is "l2" or "l3" for the second-level cache, "dram" for memory."""
        return self.gpu.memory_bytes_per_s * (1.0 if level == "dram" else CACHE_SPEED)

    @property
    def l3_share_bytes(self) -> int:
        return self.gpu.l2_bytes

    # ---- prices -------------------------------------------------------------------------------------------------
    def for_weights(self, size_bytes: int) -> GpuTarget:
        return self

    def decided(self, spec: ConvSpec) -> ConvSpec:
        """An empty batch is planned as one image."""
        return spec.with_batch(max(spec.n, 1))

    def compared(self, spec: ConvSpec) -> ConvSpec:
        return self.decided(spec)

    def accuracy(self, algorithm: GpuAlgorithm, config: Any) -> str:
        return algorithm.accuracy(self.precision)

    def operator_seconds(self, layer: Layer) -> float:
        elems = sum(storage.view.elems for storage in (*layer.inputs, *layer.outputs))
        moved_bytes = elems * PRECISION_BYTES[self.precision]
        level = "l2" if moved_bytes <= self.l3_share_bytes else "dram"
        return passes(layer.op) * moved_bytes / self.bytes_per_s(level)

    def predicted(self, step: Step) -> tuple[float, float]:
        """Seconds of a step, and the operations that it executes."""
        if step.spec is None:
            layer = Layer(step.name, step.op, list(step.inputs), list(step.outputs))
            return LAUNCH_SECONDS + self.operator_seconds(layer), 0.0
        is_block = isinstance(step.spec, BlockSpec)
        algorithm: Any = block_algorithm(step.algorithm) if is_block else algorithm_of(step.algorithm)
        spec = _not_empty(step.spec) if isinstance(step.spec, BlockSpec) else self.decided(step.spec)
        cost = algorithm.cost(spec, step.config, *self.where)
        return LAUNCH_SECONDS + cost.seconds, cost.flops

    # ---- steps --------------------------------------------------------------------------------------------------
    def group(
        self,
        lowered: Lowered,
        layer_seconds: LayerSeconds,
        *,
        eagerly: bool,
        only: Collection[tuple[str, ...]] | None,
    ) -> tuple[Lowered, dict[int, Fusion]]:
        pricing = Pricing(
            batched=_not_empty,
            ways=self._block_ways,
            refuse=_refuse_views,
            least_seconds=lambda block: block.flops / self.peak(),
            step_seconds=LAUNCH_SECONDS,
        )
        return group_by_time(lowered, pricing, layer_seconds, eagerly=eagerly, only=only)

    def _block_ways(self, block: BlockSpec) -> list[Way] | str:
        found: list[Way] = []
        reasons: list[str] = []
        for algorithm in GPU_BLOCK_REGISTRY:
            refusal = algorithm.refuse(block, *self.where)
            if isinstance(refusal, Refusal):
                reasons.append(refusal.reason)
                continue
            for config in algorithm.configs(block, *self.where):
                found.append(Way(algorithm.name, config, algorithm.cost(block, config, *self.where).seconds))
        return sorted(found, key=lambda way: way.seconds) or "; ".join(reasons)

    def implementation(self, step: Step) -> GpuImplementation:
        """Launches of a convolution or a block, on tensors by the names that its algorithm gives them."""
        if isinstance(step.spec, BlockSpec):
            return block_algorithm(step.algorithm).implement(step.spec, step.config, *self.where)
        assert step.spec is not None
        return algorithm_of(step.algorithm).implement(step.spec, step.config, *self.where)

    def operator_calls(self, step: Step) -> OperatorCalls:
        """Calls of any other step, on tensors named after their places."""
        inputs, outputs = [s.view for s in step.inputs], [s.view for s in step.outputs]
        if isinstance(step.op, Copy):
            return copy_calls(inputs[0], outputs[0])
        return operator_calls(step.op, inputs, outputs, self.precision)

    def workspaces(self, step: Step) -> dict[str, int]:
        if step.spec is None:
            return {}
        return {each.name: each.size_bytes(self.precision) for each in self.implementation(step).workspaces}

    def operator(self, step: Step) -> tuple[Candidate, ...]:
        """Says whose kernels compute it."""
        layer = Layer(step.name, step.op, list(step.inputs), list(step.outputs))
        by = self.operator_calls(step).by
        return (Candidate(f"{step.op.name}:{by}", self.operator_seconds(layer)),)

    def tolerance(self, step: Step) -> float:
        """Of a layer in a block 1: blocks sum directly."""
        assert isinstance(step.spec, ConvSpec)
        return algorithm_of(step.algorithm).tolerance(step.spec, self.precision) if step.algorithm else 1.0

    def mixes_pixels(self, step: Step) -> bool:
        return step.algorithm.startswith("winograd")


def _not_empty(block: BlockSpec) -> BlockSpec:
    return block.with_batch(max(block.n, 1))


def _refuse_views(group: Group) -> str:
    """Kernels take images without gaps."""
    images = [storage for storage in (*group.inputs, group.output) if len(storage.view.shape) == 4]
    if all(storage.view.is_dense(channels_last(4)) for storage in images):
        return ""
    return "a tensor that enters or leaves them does not lie without gaps"


def algorithm_of(name: str) -> GpuAlgorithm:
    return next(algorithm for algorithm in GPU_REGISTRY if algorithm.name == name)


def block_algorithm(name: str) -> Any:
    return next(algorithm for algorithm in GPU_BLOCK_REGISTRY if algorithm.name == name)


def names() -> Sequence[str]:
    """What `options["algorithms"]` may name on a GPU."""
    found = [algorithm.name for algorithm in GPU_REGISTRY] + [algorithm.name for algorithm in GPU_BLOCK_REGISTRY]
    return list(dict.fromkeys([*found, *(name.partition(":")[0] for name in found)]))


__all__ = ["GpuTarget", "algorithm_of", "block_algorithm", "names"]
