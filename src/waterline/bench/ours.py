"""Waterline as one of the engines."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np

import waterline
from waterline.bench.engine import Engine, Meter, Task

LAYOUT_CHANGES = ("Copy",)  # at the network's edges


def compiled(task: Task, options: Mapping[str, Any] | None = None) -> Any:
    """The task's network.

    Args:
        options: of `waterline.compile`, for instance `{"algorithms": ["indirect"]}`.
    """
    if task.device == "cpu":
        return waterline.compile(task.model, num_threads=task.threads, dtype=task.dtype, options=dict(options or {}))
    # For the batch of the task: on a GPU others are rounded up.
    inputs = dict(task.inputs) or None
    return waterline.compile(task.model, inputs, device=task.device, dtype=task.dtype, options=dict(options or {}))


def engine_of(net: Any, inputs: Mapping[str, np.ndarray]) -> Engine:
    """A network that is compiled already, with the inputs that it will be run on, on its device. Results are NumPy's:
    on a GPU a run ends when they are there."""
    arrays = [net.engine.array(value, name) for name, value in inputs.items()]

    def run() -> list[np.ndarray]:
        return [net.engine.result(array, None) for array in net.run_arrays(arrays)]

    run()
    return Engine("waterline", metadata.version("waterline"), run)


def meter_of(net: Any, inputs: Mapping[str, np.ndarray]) -> Meter:
    """The layers of a compiled network by its own profile."""
    arrays = list(inputs.values())
    times: list[float] = []

    def run() -> None:
        report = net.profile(*arrays, seconds=1e-9)  # one inference is the least
        times.append(sum(row.time_ns for row in report.rows if row.algorithm not in LAYOUT_CHANGES))

    return Meter(run, lambda: times)


def as_list(results: Any) -> list[np.ndarray]:
    """A network with one output returns it alone."""
    return list(results) if isinstance(results, tuple | list) else [results]
