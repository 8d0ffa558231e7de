"""`Session`: ONNX Runtime's habits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from waterline.api.compiling import compile
from waterline.api.network import CompiledNetwork
from waterline.errors import InvalidArgument
from waterline.frontends import onnx
from waterline.frontends.onnx import TensorInfo


class Session:
    """An ONNX model that runs by names, as `onnxruntime.InferenceSession` does.

    Args:
        model: path, bytes or onnx.ModelProto. The others: as `waterline.compile` takes them.

    A model that leaves sizes other than the batch open is compiled at the first `run`, for the shapes it gets.
    """

    def __init__(self, model: str | Path | bytes | Any, **arguments: Any) -> None:
        self._model = model
        self._arguments = arguments
        self._signature = onnx.signature(model)
        open_sizes = any(
            not isinstance(size, int) for info in self._signature.inputs for size in (info.shape or (None,))[1:]
        )
        self._network: CompiledNetwork | None = None if open_sizes else compile(model, **arguments)

    def get_inputs(self) -> list[TensorInfo]:
        """Name, shape (symbols kept) and type of each input."""
        return list(self._signature.inputs)

    def get_outputs(self) -> list[TensorInfo]:
        return list(self._signature.outputs)

    def run(self, output_names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """The outputs called `output_names` (None: all, in the model's order).

        Raises:
            InvalidArgument: an unknown name, a missing input, a wrong dtype or shape.
        """
        known = [info.name for info in self._signature.outputs]
        wanted = known if output_names is None else list(output_names)
        for name in wanted:
            if name not in known:
                raise InvalidArgument(f"the model has no output {name!r}", f"its outputs are {', '.join(known)}")
        names = [info.name for info in self._signature.inputs]
        for name in inputs:
            if name not in names:
                raise InvalidArgument(f"the model has no input {name!r}", f"its inputs are {', '.join(names)}")
        if self._network is None:
            self._network = compile(self._model, dict(inputs), **self._arguments)
        results = self._network(**{name: inputs[name] for name in names if name in inputs})
        by_name = dict(zip(known, results if isinstance(results, tuple) else (results,), strict=True))
        return [by_name[name] for name in wanted]
