"""Waterline as one of the engines."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np

import waterline
from waterline.bench.engine import Engine, Task


def prepare(task: Task, options: Mapping[str, Any] | None = None) -> Engine:
    """Compile the task's model.

    Args:
        options: of `waterline.compile`, for instance `{"algorithms": ["indirect"]}`.
    """
    net = waterline.compile(task.model, num_threads=task.threads, dtype=task.dtype, options=dict(options or {}))
    return engine_of(net, task.inputs)


def engine_of(net: Any, inputs: Mapping[str, np.ndarray]) -> Engine:
    """A network that is compiled already, with the inputs that it will be run on."""
    arrays = list(inputs.values())
    net(*arrays)
    return Engine("waterline", metadata.version("waterline"), lambda: as_list(net(*arrays)))


def as_list(results: Any) -> list[np.ndarray]:
    """A network with one output returns it alone."""
    return list(results) if isinstance(results, tuple | list) else [results]
