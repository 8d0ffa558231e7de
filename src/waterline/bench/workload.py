"""What a measurement runs: a network of the zoo, an ONNX file or one layer, with inputs of any batch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from waterline import models
from waterline.bench.engine import Model
from waterline.errors import InvalidArgument
from waterline.frontends import onnx
from waterline.graph import Graph, ops
from waterline.graph.ops import Shape
from waterline.spec import ConvSpec

UNKNOWN_SIZE_HINT = "export it with whole numbers for every axis but the first"


@dataclass(frozen=True)
class Workload:
    """A network.

    Attributes:
        name: of the record: the zoo's, the file's stem, or the layer's id.
        model: an ONNX model, or the path of a file.
        shapes: input -> its shape; the first axis is 0 where any batch will do.
    """

    name: str
    model: Model
    shapes: Mapping[str, Shape]

    @classmethod
    def named(cls, argument: str, image_size: int | None = None) -> Workload:
        """A name of the zoo, or the path of an ONNX file.

        Raises:
            InvalidArgument: neither; the hint names the closest.
        """
        if argument in models.names():
            size = models.default_image_size(argument) if image_size is None else image_size
            return cls(argument, models.build(argument, size), {"input": (0, 3, size, size)})
        path = Path(argument)
        if path.is_dir():
            raise InvalidArgument(f"{argument!r} is a directory", "give the path of an ONNX file, or a name of the zoo")
        if not path.exists():
            close = difflib.get_close_matches(argument, models.names(), n=1)
            hint = f"did you mean {close[0]}?" if close else f"the zoo has {', '.join(models.names())}"
            raise InvalidArgument(f"there is no network and no file named {argument!r}", hint)
        if image_size is not None:
            raise InvalidArgument(f"the image size of {argument!r} is written in the file", "leave --image-size out")
        return cls(path.stem, path, _shapes_of(path))

    @classmethod
    def layer(cls, spec: ConvSpec) -> Workload:
        """One convolution; the spec's batch is not part of the network."""
        if spec.dtype != "f32":
            raise InvalidArgument(f"{spec.id}: dtype {spec.dtype!r} cannot be measured", "f32 can")
        return cls(spec.id, models.build_layer(spec), {"input": (0, spec.c, spec.h, spec.w)})

    def shapes_for(self, batch: int) -> dict[str, Shape]:
        """Whole-number shapes.

        Raises:
            InvalidArgument: the file has another batch written in.
        """
        shapes = {}
        for name, shape in self.shapes.items():
            if shape and shape[0] not in (0, batch):
                raise InvalidArgument(
                    f"{self.name}: input {name!r} has the fixed shape {shape}, the batch asked for is {batch}",
                    f"use --batch {shape[0]}, or export the model with a variable first axis",
                )
            shapes[name] = (batch, *shape[1:]) if shape else shape
        return shapes

    def inputs(self, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Normally distributed data."""
        random = np.random.default_rng(seed)
        return {name: random.standard_normal(shape, np.float32) for name, shape in self.shapes_for(batch).items()}

    def graph(self, batch: int) -> Graph:
        """As the file says it, before any pass."""
        return onnx.load(self.model, self.shapes_for(batch))


def flops(graph: Graph) -> int:
    """Two a multiply-add of every convolution and matrix product, by the direct algorithm."""
    total = 0
    for node in graph.nodes:
        shapes = [graph.shapes[name] for name in node.inputs]
        op = node.op
        if isinstance(op, ops.Conv | ops.Linear):
            total += op.spec(shapes[0], shapes[1]).flops
        elif isinstance(op, ops.ConvTranspose):
            n, c, h, w = shapes[0]
            _, group_k, r, s = shapes[1]
            total += 2 * n * c * h * w * group_k * r * s
        elif isinstance(op, ops.MatMul):
            total += 2 * int(np.prod(graph.shapes[node.output], dtype=np.int64)) * shapes[0][-1]
    return total


def _shapes_of(path: Path) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for info in onnx.signature(path).inputs:
        unknown = f"{path.name}: the size of input {info.name!r}, {info.shape}, is not known"
        if info.shape is None:
            raise InvalidArgument(unknown, UNKNOWN_SIZE_HINT)
        if info.dtype != "float32":
            raise InvalidArgument(f"{path.name}: input {info.name!r} is {info.dtype}", "float32 inputs can be made up")
        shape = [0 if axis == 0 and not isinstance(size, int) else size for axis, size in enumerate(info.shape)]
        if not all(isinstance(size, int) for size in shape):
            raise InvalidArgument(unknown, UNKNOWN_SIZE_HINT)
        shapes[info.name] = tuple(int(size) for size in shape if size is not None)
    return shapes
