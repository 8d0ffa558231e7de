"""`Builder`: the graph while it grows. Nodes whose inputs are all known are computed at once instead of added."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from waterline.errors import InvalidModel
from waterline.frontends.onnx.evaluation import Budget, evaluate
from waterline.frontends.onnx.values import Constant, Missing, RefusalError, Tensor, Value
from waterline.graph import Graph, Node
from waterline.graph.ops import Op, Reshape, Shape

LARGEST_TENSOR_ELEMS = 2**45  # 128 TiB of float32: more than any machine addresses


@dataclass(eq=False)
class Step:
    """A node before its tensors have their final names."""

    label: str
    op: Op
    inputs: list[Constant | Tensor]
    output: Tensor


class Builder:
    """Collects steps in execution order.

    Attributes:
        label: name of the ONNX node that is being converted; steps and messages are named after it.
        budget: how much memory constants may take that the model computes from constants.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.label = ""
        self.budget = Budget()
        self._floats: dict[int, tuple[np.ndarray, Constant]] = {}

    def emit(self, op: Op, *inputs: Value) -> Constant | Tensor:
        """Add an operation; its result is a constant where all inputs are.

        Raises:
            InvalidModel, InvalidArgument: the shapes do not fit the operation.
            RefusalError: an input is not float32, or nothing computes it.
        """
        known = [present(value) for value in inputs]
        (shape,) = op.infer([value.shape for value in known])
        if math.prod(shape) > LARGEST_TENSOR_ELEMS:
            raise InvalidModel(f"the result would have the shape {shape}, more than any machine can hold")
        if all(isinstance(value, Constant) for value in known):
            arrays = [value.array for value in known if isinstance(value, Constant)]
            return Constant(evaluate(op, arrays, shape, self.budget))
        output = Tensor(f"{self.label}/{op.name.lower()}", shape)
        self.steps.append(Step(self.label, op, [self._float32(value) for value in known], output))
        return output

    def reshape(self, value: Value, shape: Iterable[int], free: int | None = None) -> Constant | Tensor:
        """Give a value another shape, written so that another batch (and often another image) reshapes as meant.

        Args:
            shape: whole numbers.
            free: the axis of the result that becomes longer when `value` does; by default that is the first one that
                differs, as far as it can be told.
        """
        value, shape = present(value), tuple(shape)
        if shape == value.shape:
            return value
        if isinstance(value, Constant):
            if math.prod(shape) != math.prod(value.shape):
                raise InvalidModel(f"{value.shape} and {shape} do not have the same number of elements")
            return Constant(value.array.reshape(shape))
        return self.emit(Reshape(reshape_pattern(value.shape, shape, free)), value)

    def constant(self, value: float) -> Constant:
        """A new float32 constant."""
        return Constant(np.asarray(value, np.float32))

    def _float32(self, value: Constant | Tensor) -> Constant | Tensor:
        """A value as an operand of a float32 graph."""
        if isinstance(value, Constant):
            return self._floats_of(value)
        if value.dtype != "float32":
            raise RefusalError(f"its input {value.name!r} is {value.dtype}, and float32 is computed")
        return value

    def _floats_of(self, value: Constant) -> Constant:
        """The same numbers as float32; one array is converted once, however often it is read."""
        array = value.array
        if array.dtype == np.float32 and (0 not in array.strides or array.size <= 1):
            return value
        if array.dtype.kind not in "fiub":
            raise RefusalError(f"its constant input has elements of type {array.dtype}")
        if id(array) not in self._floats:
            self.budget.take(array.size * 4)
            self._floats[id(array)] = (array, Constant(np.array(array, np.float32, order="C"), value.name))
        return self._floats[id(array)][1]

    def finish(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[tuple[str, Value]]) -> Graph:
        """The graph. `outputs` are pairs of the name the model uses and the value it stands for."""
        taken = {tensor.name for tensor in inputs} | {label for label, _ in outputs}
        constants: dict[str, np.ndarray] = {}
        claimed: set[int] = {id(tensor) for tensor in inputs}
        for label, value in outputs:
            value = present(value)
            if isinstance(value, Constant):
                constants[label] = np.ascontiguousarray(self._floats_of(value).array)
            elif id(value) not in claimed:
                value.name = label
                claimed.add(id(value))
            elif value.name != label:
                self.label = label
                self.emit(Reshape((0,) * len(value.shape)), value).name = label
                claimed.add(id(self.steps[-1].output))
        steps = self._live({id(value) for _, value in outputs} | claimed)
        namer = _Namer(taken, steps)
        nodes = []
        for step in steps:
            operands = [self._operand(value, step, namer, constants) for value in step.inputs]
            if id(step.output) not in claimed:
                step.output.name = namer.unique(step.output.name)
            nodes.append(Node(namer.label(step), step.op, tuple(operands), (step.output.name,)))
        shapes = {tensor.name: tensor.shape for tensor in inputs}
        graph = Graph(name, [t.name for t in inputs], [label for label, _ in outputs], nodes, shapes, constants)
        return graph.infer()

    def _live(self, needed: set[int]) -> list[Step]:
        """The steps that outputs depend on, in order."""
        kept = []
        for step in reversed(self.steps):
            if id(step.output) in needed:
                needed.update(id(value) for value in step.inputs)
                kept.append(step)
        return kept[::-1]

    def _operand(self, value: Constant | Tensor, step: Step, namer: _Namer, constants: dict[str, np.ndarray]) -> str:
        if isinstance(value, Tensor):
            return value.name
        key = id(value.array)
        if key not in namer.constants:
            namer.constants[key] = namer.unique(value.name or f"{step.label}/constant")
            constants[namer.constants[key]] = value.array
        return namer.constants[key]


class _Namer:
    """Unique names for tensors and for nodes."""

    def __init__(self, taken: set[str], steps: Sequence[Step]) -> None:
        self.taken = taken
        self.constants: dict[int, str] = {}
        self.labels: set[str] = set()
        self.steps_of = Counter(step.label for step in steps)

    def unique(self, name: str) -> str:
        return _unused(name, self.taken)

    def label(self, step: Step) -> str:
        """The ONNX node's name; where it became several nodes, each with its operation's."""
        alone = self.steps_of[step.label] == 1
        return _unused(step.label if alone else f"{step.label}/{step.op.name.lower()}", self.labels)


def _unused(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}/{count}"
    taken.add(candidate)
    return candidate


def present(value: Value) -> Constant | Tensor:
    """The value, if something computes it. Raises RefusalError with the reason if nothing does."""
    if isinstance(value, Missing):
        raise RefusalError(value.reason)
    return value


def reshape_pattern(source: Shape, target: Shape, free: int | None = None) -> tuple[int, ...]:
    """`target` with 0 for leading sizes that stay and -1 for the axis that takes up what changes with the input.

    Raises RefusalError for empty tensors whose zeros are in places that cannot be written so.
    """
    pattern = list(target)
    kept = 0
    if free is None:
        while kept < min(len(source), len(target)) and source[kept] == target[kept]:
            pattern[kept] = 0
            kept += 1
        free = kept if kept in (0, len(target) - 1) else len(target)
    zeros = [i for i in range(kept, len(target)) if target[i] == 0]
    if zeros:
        if len(zeros) > 1 or math.prod(d for i, d in enumerate(target) if i not in zeros) == 0:
            raise RefusalError(f"reshapes the empty {source} to {target}")
        pattern[zeros[0]] = -1
    elif free < len(target) and math.prod(target[:free] + target[free + 1 :]) > 0:
        pattern[free] = -1
    return tuple(pattern)
