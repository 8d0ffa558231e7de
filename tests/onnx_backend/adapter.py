"""Waterline behind the interface of `onnx.backend`, for the ONNX project's own test suite.

WATERLINE_ONNX_EXECUTOR chooses what computes: `engine` (`waterline.compile`, the default) or `reference`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

import waterline
from waterline import reference
from waterline.frontends.onnx import load, signature

Executor = Callable[[onnx.ModelProto, Mapping[str, np.ndarray]], list[np.ndarray]]

# The node tests pass everything as a run-time input. These are parameters of a layer, not data: shapes, axes, factors
# and weights, which the engine knows when it compiles. The adapter makes them initializers. Operator -> positions.
PARAMETERS: dict[str, Sequence[int]] = {
    "BatchNormalization": (1, 2, 3, 4),
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "Gather": (1,),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "Pad": (1, 2, 3),
    "PRelu": (1,),
    "ReduceL1": (1,),
    "ReduceL2": (1,),
    "ReduceLogSum": (1,),
    "ReduceLogSumExp": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}


def run_reference(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    graph = load(model, {name: value.shape for name, value in inputs.items()})
    results = reference.run(graph, inputs)
    return [results[name].astype(np.float32) for name in graph.outputs]


def run_engine(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    results = waterline.compile(model, inputs)(**inputs)
    return [results] if isinstance(results, np.ndarray) else list(results)


EXECUTORS: dict[str, Executor] = {"engine": run_engine, "reference": run_reference}
EXECUTOR = os.environ.get("WATERLINE_ONNX_EXECUTOR", "engine")


def specialise(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model with the values of its layers' parameters as initializers."""
    names = {
        node.input[position]
        for node in model.graph.node
        for position in PARAMETERS.get(node.op_type, ())
        if position < len(node.input) and node.input[position] in inputs
    }
    special = onnx.ModelProto()
    special.CopyFrom(model)
    kept = [info for info in special.graph.input if info.name not in names]
    del special.graph.input[:]
    special.graph.input.extend(kept)
    special.graph.initializer.extend(onnx.numpy_helper.from_array(inputs[name], name) for name in sorted(names))
    return special


class WaterlineRep(BackendRep):
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model

    def run(self, inputs: Any, **kwargs: Any) -> tuple[np.ndarray, ...]:
        names = [info.name for info in signature(self.model).inputs]
        given = {name: np.asarray(value) for name, value in zip(names, inputs, strict=True)}
        model = specialise(self.model, given)
        data = {info.name: given[info.name] for info in signature(model).inputs}
        return tuple(EXECUTORS[EXECUTOR](model, data))


class WaterlineBackend(Backend):
    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> WaterlineRep:
        return WaterlineRep(model)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"
