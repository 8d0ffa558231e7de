"""`Builder`: collects the nodes and constants of a graph while a PyTorch program is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from waterline.errors import InvalidModel
from waterline.frontends.torch.batch import follow
from waterline.graph import Node
from waterline.graph.ops import Binary, Op, Reshape, Shape, Transpose, Unary
from waterline.spec import Activation


class Unsupported(Exception):  # noqa: N818 - a signal between converters and the importer, never seen by users
    """A converter cannot express this call. The message is the reason, or empty where the operator's name says it."""


@dataclass(frozen=True)
class Value:
    """A tensor of the program: computed when the network runs, or known now (`constant`, of any dtype).

    `batch` is the axis that counts images, None where that is unknown.
    """

    name: str
    shape: Shape
    constant: torch.Tensor | None = None
    batch: int | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)


class Builder:
    """Converters call `emit`; the importer sets `label` before each of them.

    Attributes:
        nodes, constants: what the graph will consist of.
        label: the name that the next nodes get (made unique by a suffix).
        out_shape: the shape that PyTorch gives to the result of the call being converted; () where it has several.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.label = ""
        self.out_shape: Shape = ()
        self._taken: set[str] = set()
        self._suffixes: dict[str, int] = {}
        self._scalars: dict[str, Value] = {}
        self._made: dict[str, tuple[Op, tuple[Value, ...]]] = {}

    # ---- names and values ---------------------------------------------------------------------------------------
    def unique(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`, ... where it is taken already."""
        candidate = name
        while candidate in self._taken:
            self._suffixes[name] = self._suffixes.get(name, 0) + 1
            candidate = f"{name}_{self._suffixes[name]}"
        self._taken.add(candidate)
        return candidate

    def input(self, name: str, shape: Shape) -> Value:
        return Value(self.unique(name), shape, batch=0 if shape else None)

    def constant(self, tensor: torch.Tensor, name: str = "") -> Value:
        """A known tensor. It enters the graph when a node reads it."""
        return Value(self.unique(name or f"{self.label}.constant"), tuple(tensor.shape), tensor)

    def scalar(self, number: float) -> Value:
        """A constant of shape (), one for each number however often it is used."""
        key = repr(float(number))  # tells -0.0 from 0.0, and NaN is itself
        if key not in self._scalars:
            self._scalars[key] = self.constant(torch.tensor(number, dtype=torch.float32), f"scalar_{number:g}")
        return self._scalars[key]

    def value(self, x: Value | float) -> Value:
        return x if isinstance(x, Value) else self.scalar(x)

    # ---- nodes --------------------------------------------------------------------------------------------------
    def emit(self, op: Op, *inputs: Value) -> Value:
        """Append one node and return what it computes.

        Raises:
            InvalidModel: `op` does not accept these shapes.
        """
        (shape,) = op.infer([x.shape for x in inputs])
        name = self.unique(self.label)
        self.nodes.append(Node(name, op, tuple(self._read(x) for x in inputs), (name,)))
        self._made[name] = (op, inputs)
        return Value(name, shape, batch=follow(op, [(x.shape, x.batch) for x in inputs if x.constant is None], shape))

    def origin(self, x: Value) -> tuple[Op | None, tuple[Value, ...]]:
        """The operation that computes `x` and its inputs; None for inputs of the graph and constants."""
        return self._made.get(x.name, (None, ()))

    def unary(self, kind: str, x: Value, *params: float) -> Value:
        return self.emit(Unary(Activation(kind, tuple(float(p) for p in params))), x)

    def binary(self, kind: str, a: Value | float, b: Value | float) -> Value:
        return self.emit(Binary(kind), *(self._narrow(self.value(x)) for x in (a, b)))

    def reshape(self, x: Value, target: Sequence[int], batch: int | None = None) -> Value:
        """`target` as `ops.Reshape` takes it: 0 copies an axis, one -1 takes the rest.

        `batch` is where the batch axis comes to lie, for callers who know; otherwise it is derived from `target`.
        """
        op = Reshape(tuple(target))
        (shape,) = op.infer([x.shape])
        if x.constant is not None:
            return self.constant(x.constant.reshape(shape), x.name)
        if shape == x.shape:
            return x
        result = self.emit(op, x)
        return result if batch is None else replace(result, batch=batch)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        if list(perm) == list(range(x.rank)):
            return x
        if x.constant is not None:
            return self.constant(x.constant.permute(*perm), x.name)
        return self.emit(Transpose(tuple(perm)), x)

    # ---- constants ----------------------------------------------------------------------------------------------
    def enter(self, x: Value) -> None:
        """Make a constant part of the graph, sharing the memory of the tensor where it can."""
        if x.constant is not None and x.name not in self.constants:
            self.constants[x.name] = array(x.constant)

    def _read(self, x: Value) -> str:
        self.enter(x)
        return x.name

    def _narrow(self, x: Value) -> Value:
        """A constant that was expanded by stride 0 goes back to size 1 there: broadcasting widens it for any batch."""
        tensor = x.constant
        if tensor is None or all(
            stride != 0 or size == 1 for stride, size in zip(tensor.stride(), x.shape, strict=True)
        ):
            return x
        for axis in range(x.rank):
            if tensor.stride(axis) == 0 and x.shape[axis] > 1:
                tensor = tensor.narrow(axis, 0, 1)
        return self.constant(tensor, x.name)


def array(tensor: torch.Tensor) -> np.ndarray:
    """A float32 tensor as a C-contiguous array, without copying where it is contiguous already."""
    if tensor.dtype in (torch.bool, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        tensor = tensor.to(torch.float32)  # PyTorch promotes integers that meet float32 in the same way
    elif tensor.dtype == torch.float64 and tensor.ndim == 0:
        tensor = tensor.to(torch.float32)  # a number, which does not promote float32 either
    if tensor.dtype != torch.float32:
        raise InvalidModel(
            f"a constant of the module is {str(tensor.dtype).removeprefix('torch.')}; Waterline reads float32",
            "convert the module with .float()",
        )
    return np.asarray(tensor.detach().contiguous().numpy())
