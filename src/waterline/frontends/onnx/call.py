"""`Call`: one ONNX node as its converter sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from waterline.errors import InvalidModel
from waterline.frontends.onnx.attributes import Attributes
from waterline.frontends.onnx.builder import Builder, present
from waterline.frontends.onnx.storage import decode
from waterline.frontends.onnx.values import Constant, RefusalError, Tensor, Value
from waterline.graph.ops import Op


@dataclass(eq=False)
class Call:
    """A node with its inputs looked up.

    Attributes:
        kind: the operator's type.
        opset: the version of the operators that is in force.
        inputs: values in order; None for an optional input that is left out.
        outputs: names of the outputs, empty for those that nothing asks for.
        model_path: the model's file, for external data in attributes.
    """

    kind: str
    opset: int
    attributes: Attributes
    inputs: Sequence[Value | None]
    outputs: Sequence[str]
    builder: Builder
    model_path: Path | None

    def has(self, position: int) -> bool:
        return position < len(self.inputs) and self.inputs[position] is not None

    def value(self, position: int) -> Constant | Tensor:
        """A required input. Raises InvalidModel if it is left out, RefusalError if nothing computes it."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if value is None:
            raise InvalidModel(f"its input {position} is missing")
        return present(value)

    def values(self) -> list[Constant | Tensor]:
        """All inputs of a variadic operator, at least one."""
        if not self.inputs:
            raise InvalidModel("it has no inputs")
        return [self.value(position) for position in range(len(self.inputs))]

    def array(self, position: int) -> np.ndarray:
        """An input that must be known while importing. Raises RefusalError if it is computed at run time."""
        value = self.value(position)
        if not isinstance(value, Constant):
            raise RefusalError(f"its input {position} ({value.name!r}) is computed at run time")
        return value.array

    def integers(self, position: int) -> tuple[int, ...]:
        """A known input as whole numbers (a scalar is a list of one)."""
        array = self.array(position)
        if array.dtype.kind not in "iu" or array.ndim > 1:
            raise InvalidModel(f"its input {position} is {array.dtype}{array.shape}, whole numbers are expected")
        return tuple(int(v) for v in array.reshape(-1))

    def number(self, position: int) -> float:
        """A known input with one element."""
        array = self.array(position)
        if array.size != 1 or array.dtype.kind not in "fiub":
            raise InvalidModel(f"its input {position} is {array.dtype}{array.shape}, one number is expected")
        return float(array.reshape(-1)[0])

    def tensor_attribute(self, name: str) -> np.ndarray | None:
        tensor = self.attributes.tensor(name)
        return None if tensor is None else decode(tensor, None, self.model_path, f"attribute {name!r}")

    def axes(self, attribute: str, position: int, since: int) -> tuple[int, ...] | None:
        """Axes (or sizes): an attribute before opset `since`, an input from then on. None if absent."""
        if self.opset < since:
            return self.attributes.integers(attribute) if attribute in self.attributes else None
        return self.integers(position) if self.has(position) else None

    def axis(self, default: int, rank: int, *, inclusive: bool = False) -> int:
        """The attribute `axis`, counted from the front; up to `rank` itself if `inclusive`."""
        return positive_axis(self.attributes.integer("axis", default), rank, inclusive=inclusive)

    def emit(self, op: Op, *inputs: Value) -> Constant | Tensor:
        return self.builder.emit(op, *inputs)

    def refuse_outputs(self, first: int, what: str) -> None:
        """Raise RefusalError if the output number `first` or a later one is asked for."""
        if any(self.outputs[first:]):
            raise RefusalError(f"its output {first} ({what}) is not computed")


Converter = Callable[[Call], Value]
Converters = dict[str, Converter | Callable[[Call], list[Value]]]


def positive_axis(axis: int, rank: int, *, inclusive: bool = False) -> int:
    """Raises InvalidModel if there is no such axis."""
    if not -rank <= axis < rank + inclusive:
        raise InvalidModel(f"axis {axis} of a tensor of rank {rank}")
    return axis + rank if axis < 0 else axis


def positive_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Raises InvalidModel if there is no such axis or one is named twice."""
    out = tuple(positive_axis(axis, rank) for axis in axes)
    if len(set(out)) != len(out):
        raise InvalidModel(f"axes {tuple(axes)} name one axis twice")
    return out
