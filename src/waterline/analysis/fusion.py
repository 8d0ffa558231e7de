"""What a block would move if it were one kernel, and the bound of that.

A fused kernel reads weights and what enters the block, and writes what is needed outside, each once. Every tensor moves
at the bandwidth of the level at which the layers find it (the nearest, where several use it). With this rule fusing
never raises a bound: each tensor costs no more than in the layer that needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from waterline.machine import Rates
from waterline.planner import Plan, Step, Storage
from waterline.runtime.bound import arithmetic_ns, bound_ns, level_of, step_bytes
from waterline.spec import DTYPE_BYTES, ConvSpec

_Key = tuple[str, int, int]  # root, offset and elements: the same under every shape


@dataclass(frozen=True)
class FusedTraffic:
    """Bytes of one kernel in the place of a block.

    Attributes:
        weight_bytes: of its convolutions. in_bytes, out_bytes: activations (and operators' constants) that enter, and
            those that are needed outside.
        bound_ns: the least time of such a kernel, by the direct algorithms.
    """

    weight_bytes: int
    in_bytes: int
    out_bytes: int
    bound_ns: float

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.in_bytes + self.out_bytes


class Tensors:
    """Who writes and who reads each tensor of a plan. Views of the same elements are one tensor."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._writers: dict[str, dict[_Key, int]] = {}  # root -> what is written there, and the step that does
        self._readers: dict[str, list[tuple[_Key, int]]] = {}
        for i, step in enumerate(plan.steps):
            for storage in step.outputs:
                self._writers.setdefault(storage.root, {})[_key(storage)] = i
            for storage in activations(step):
                self._readers.setdefault(storage.root, []).append((_key(storage), i))

    def fused(self, block: range, machine: Rates, threads: int) -> FusedTraffic:
        """Of the steps at these positions as one kernel; one step alone is as it is."""
        steps = self.plan.steps[block.start : block.stop]
        if len(steps) == 1:
            filters = steps[0].spec.weight_bytes if steps[0].spec else 0
            out = sum(_elem_bytes(steps[0]) * storage.view.elems for storage in steps[0].outputs)
            inner = step_bytes(steps[0]) - filters - out
            return FusedTraffic(filters, inner, out, bound_ns(steps[0], machine, threads))
        parts = [_Part(machine, threads) for _ in range(3)]
        weights, entering, leaving = parts
        for step in steps:
            level = level_of(step_bytes(step), machine)
            elem_bytes = _elem_bytes(step)
            if step.spec is not None:
                for part in step.layers:
                    if part.spec is not None:
                        weights.add((part.weight, 0, part.spec.weight_bytes // elem_bytes), elem_bytes, level)
            for storage in activations(step):
                if elems := self._entering_elems(storage, block):
                    entering.add((storage.root, storage.offset, elems), elem_bytes, level)
            for storage in step.outputs:
                if self._is_needed_outside(storage, block):
                    leaving.add(_key(storage), elem_bytes, level)
        flops = sum(step.spec.flops for step in steps if step.spec)
        bound = max(arithmetic_ns(flops, machine, threads), sum(part.ns for part in parts))
        return FusedTraffic(weights.bytes, entering.bytes, leaving.bytes, bound)

    def _entering_elems(self, storage: Storage, block: range) -> int:
        """How much of what a step reads is not written in the block."""
        written = self._writers.get(storage.root, {})
        parts = {key: step for key, step in written.items() if _touches(key, _key(storage), written)}
        outside = [key for key, step in parts.items() if step not in block]
        if parts and not outside:
            return 0
        return min(storage.view.elems, sum(elems for _, _, elems in outside)) if parts else storage.view.elems

    def _is_needed_outside(self, storage: Storage, block: range) -> bool:
        if self.plan.buffers[storage.root].kind == "output":
            return True
        written = self._writers[storage.root]
        return any(
            step not in block and _touches(_key(storage), key, written)
            for key, step in self._readers.get(storage.root, ())
        )


class _Part:
    """Distinct tensors, each with its bytes and the nearest level at which it was found."""

    def __init__(self, machine: Rates, threads: int) -> None:
        self._rates = {level: machine.bytes_per_s(level, threads) for level in ("l3", "dram")}
        self._found: dict[_Key, tuple[int, float]] = {}  # bytes, nanoseconds

    def add(self, key: _Key, elem_bytes: int, level: str) -> None:
        moved = key[2] * elem_bytes
        ns = 1e9 * moved / self._rates[level]
        self._found[key] = (moved, min(ns, self._found.get(key, (moved, ns))[1]))

    @property
    def bytes(self) -> int:
        return sum(moved for moved, _ in self._found.values())

    @property
    def ns(self) -> float:
        return sum(ns for _, ns in self._found.values())


def activations(step: Step) -> Sequence[Storage]:
    """The tensors that a step reads, but for a convolution's weights and bias."""
    if not isinstance(step.spec, ConvSpec):
        return step.inputs
    residual = step.inputs[-1:] if step.spec.epilogue.residual else ()
    return (step.inputs[0], *residual)


def _touches(write: _Key, read: _Key, written: Iterable[_Key]) -> bool:
    """Whether a step that reads one key of a root needs what was written there under the other.

    Either it is the same tensor, or the parts that a concatenation is made of are read together.
    """
    return write == read or read not in written


def _key(storage: Storage) -> _Key:
    return (storage.root, storage.offset, storage.view.elems)


def _elem_bytes(step: Step) -> int:
    return DTYPE_BYTES[step.dtype]
