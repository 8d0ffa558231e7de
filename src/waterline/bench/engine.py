"""`Engine`: a network prepared to run, whoever runs it. What the protocols compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from waterline.errors import InvalidArgument

Model = Any  # an onnx.ModelProto, or the path of a file


class CannotServe(InvalidArgument):
    """An engine has no way to run this network or this batch. A comparison goes on without it, and says so."""


@dataclass(frozen=True)
class Task:
    """What is to be run.

    Attributes:
        model: an ONNX model, or the path of a file.
        inputs: name -> array, as the model wants them; their first axis is the batch.
        threads: that the engine may compute on, if it is a CPU's.
        dtype: "float32", or what a GPU computes in. device: as for `waterline.compile`.
    """

    model: Model
    inputs: Mapping[str, np.ndarray]
    threads: int
    dtype: str = "float32"
    device: str = "cpu"

    def model_bytes_or_path(self) -> bytes | str:
        """For engines that do not know `ModelProto`."""
        return str(self.model) if isinstance(self.model, str | Path) else self.model.SerializeToString()


@dataclass(frozen=True)
class Engine:
    """A network that is ready. `run` computes the outputs of the task's inputs, in the model's order."""

    name: str
    version: str
    run: Callable[[], list[np.ndarray]]


@dataclass(frozen=True)
class Meter:
    """An engine with its own profiler on: what its kernels take, without the changes of layout around them.

    A network of one layer is called with NCHW data, and every engine spends time on bringing it into its own layout
    and back. That belongs to the latency of such a call, but says nothing about the layer inside a network.

    Attributes:
        run: one inference.
        kernel_ns: after the last run: the kernels' time in each run, the first run's first.
    """

    run: Callable[[], object]
    kernel_ns: Callable[[], list[float]]
