"""Results against float64: a network within the noise of float32, a layer within its algorithm's bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import waterline
from waterline.bench.workload import Workload
from waterline.errors import Error
from waterline.machine import CATALOGUE
from waterline.planner import CpuTarget, Plan, Target
from waterline.reference import Comparison, compare, conv2d, conv_bound, network_bound, run
from waterline.spec import ConvSpec

CPU = CpuTarget(CATALOGUE[0])  # what algorithms state of their errors is the same on all


@dataclass(frozen=True)
class LayerCheck:
    """One layer by one algorithm. `algorithm` is the one that ran."""

    spec: ConvSpec
    algorithm: str
    comparison: Comparison


def check_network(
    workload: Workload,
    inputs: Mapping[str, np.ndarray],
    results: Sequence[np.ndarray],
    plan: Plan,
    trials: int = 2,
    target: Target | None = None,
) -> dict[str, Comparison]:
    """Output -> how far `results` is from the truth. Costs `2 + 2 trials` slow runs.

    Args:
        target: that the plan was made for (None: any CPU).
        trials: noisy runs that the bound is made of, see `waterline.reference.network_bound`.
    """
    graph = workload.graph(batch=next(iter(inputs.values())).shape[0])
    stated = CPU if target is None else target
    factors = {layer.name: stated.tolerance(layer) for step in plan.steps for layer in step.layers if layer.spec}
    dtypes = {step.dtype for step in plan.steps} or {"f32"}
    bounds = network_bound(graph, inputs, factors, trials=trials, dtype=dtypes.pop())
    truth = run(graph, inputs)
    return {
        name: compare(np.asarray(result), truth[name], bounds[name])
        for name, result in zip(graph.outputs, results, strict=True)
    }


def check_layer(spec: ConvSpec, algorithm: str | None, **arguments: Any) -> LayerCheck:
    """Compute a layer on random data by an algorithm (None: the planner's choice).

    Args:
        arguments: of `waterline.compile`.

    Raises:
        Refused: the algorithm does not serve the layer.
        Error: another algorithm ran than the one asked for.
    """
    workload = Workload.layer(spec)
    inputs = workload.inputs(spec.n)
    options = {"algorithms": [algorithm]} if algorithm else {}
    net = waterline.compile(workload.model, inputs["input"], options=options, **arguments)
    result = np.asarray(net(inputs["input"]))
    (step,) = (step for step in net.plan.steps if step.spec is not None)
    used = step.kind
    if algorithm and algorithm not in (used, step.algorithm):
        raise Error(f"{spec.id}: {algorithm} was asked for, {used} ran")
    (weight,) = workload.graph(spec.n).constants.values()
    typed = replace(spec, dtype=step.dtype)
    factor, is_mixed = net.target.tolerance(step), net.target.mixes_pixels(step)
    bound = conv_bound(typed, inputs["input"], weight, factor, mixes_pixels=is_mixed)
    return LayerCheck(spec, used, compare(result, conv2d(inputs["input"], weight, None, spec), bound))
