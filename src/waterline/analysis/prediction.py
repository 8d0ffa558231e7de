"""The time of a step before anything has run: the planner's costs for convolutions, bytes moved for operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from waterline.algorithms import by_name
from waterline.algorithms.base import Cost
from waterline.algorithms.operator_cost import operator_seconds, step_seconds
from waterline.graph import ops
from waterline.graph.block import BlockSpec
from waterline.machine import Machine, Rates
from waterline.planner import Plan, Step
from waterline.planner.lower import Copy
from waterline.runtime.bound import arithmetic_ns, step_bytes
from waterline.spec import ConvSpec, TensorView


@dataclass(frozen=True)
class Prediction:
    """Time of a step and the operations that it executes, padding of tiles included (0 for operators)."""

    time_ns: float
    flops: float


def predictor(plan: Plan, machine: Rates, threads: int) -> Callable[[Step], Prediction]:
    """What predicts the steps of a plan on so many threads of what it was made for."""
    if isinstance(machine, Machine):
        return Predictor(plan, machine, threads)
    assert isinstance(machine, Predicts), f"{machine.name} predicts its own steps"

    def predict(step: Step) -> Prediction:
        seconds, flops = machine.predicted(step)
        return Prediction(1e9 * seconds, flops)

    return predict


@runtime_checkable
class Predicts(Protocol):
    """A target that has the costs of its steps."""

    def predicted(self, step: Step) -> tuple[float, float]:
        """Seconds and executed operations."""


class Predictor:
    """Predicts the steps of one plan on so many threads of a machine. Equal layers are priced once."""

    def __init__(self, plan: Plan, machine: Machine, threads: int) -> None:
        self._machine = with_threads(machine.for_weights(weight_bytes(plan)), threads)
        self._costs: dict[tuple[str, ConvSpec | BlockSpec, Any], Cost] = {}

    def __call__(self, step: Step) -> Prediction:
        fixed = 1e9 * step_seconds(self._machine)
        if step.spec is None:
            return Prediction(fixed + self._moving_ns(step), 0.0)
        cost = self._cost(step)
        # A cost ranks algorithms and may be too low for all of them (without fused multiply-add it is); a time may not.
        least_ns = arithmetic_ns(cost.flops, self._machine, self._machine.cores)
        return Prediction(fixed + max(1e9 * cost.seconds, least_ns), cost.flops)

    def _cost(self, step: Step) -> Cost:
        """Of the whole batch, which shares the weights; the planner's figures are of one image."""
        assert step.spec is not None
        key = (step.algorithm, step.spec, step.config)
        if key not in self._costs:
            self._costs[key] = by_name(step.algorithm).cost(step.spec, step.config, self._machine)
        return self._costs[key]

    def _moving_ns(self, step: Step) -> float:
        reorders = is_reordering(step)
        return 1e9 * operator_seconds(step.op, step_bytes(step), self._machine, reorders=reorders)


def is_reordering(step: Step) -> bool:
    """Whether the elements of the output lie in another order than those of the input."""
    x, y = step.inputs[0].view, step.outputs[0].view
    return (isinstance(step.op, ops.Pad | Copy) or x.shape == y.shape) and _order(x) != _order(y)


def _order(view: TensorView) -> list[int]:
    """Axes from the outermost in memory to the innermost, without those of size 1."""
    return [axis for axis in view.order if view.shape[axis] > 1]


def with_threads(machine: Machine, threads: int) -> Machine:
    """So many of its cores as a machine of their own, with the rates that these have together."""
    threads = min(threads, machine.cores)
    if threads == machine.cores:
        return machine
    bandwidth = machine.bandwidth and replace(machine.bandwidth, dram_all=machine.bytes_per_s("dram", threads))
    peak = None if machine.peak_all_flops_per_s is None else machine.peak(threads)
    return replace(machine, cores=threads, peak_all_flops_per_s=peak, bandwidth=bandwidth)


def weight_bytes(plan: Plan) -> int:
    """Weights of all layers as the model has them; what several layers share counts once."""
    layers = [layer for step in plan.steps for layer in step.layers if layer.spec is not None]
    return sum({layer.weight: layer.spec.weight_bytes for layer in layers if layer.spec}.values())
