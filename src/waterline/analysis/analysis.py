"""`Analysis`: how far a network is from the limit, layer by layer and block by block, and why.

Definitions (Lavin, "On the Efficiency of Convolutional Neural Networks", 2024; docs/analysis.md has the formulas). For
a kernel with O operations of the direct algorithm, B bytes at least, a machine of peak P and bandwidth W:

* *operational intensity* I = O / B; *ridge* = P / W; least time, the *bound*, t = max(O / P, B / W);
* *attainable efficiency* = O / (P t) = min(1, I / ridge);
* *computational efficiency* = O / (P time); *effective efficiency* = the same of the operations that are executed: the
  first credits an algorithm that needs fewer, the second tells how busy the arithmetic units are;
* *waterline* of a sequence of kernels = sum O / (P sum t); a block that is fused has one t, of the bytes which enter
  and leave it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any


@dataclass(frozen=True)
class Causes:
    """Where time goes, in nanoseconds; the three add up to it.

    Attributes:
        arithmetic_ns: what the operations that are executed take at peak.
        memory_ns: what moving the least bytes takes beyond that.
        overhead_ns: the rest: kernels below peak, data moved more than once, waiting for each other.
    """

    arithmetic_ns: float
    memory_ns: float
    overhead_ns: float

    @property
    def time_ns(self) -> float:
        return self.arithmetic_ns + self.memory_ns + self.overhead_ns

    @classmethod
    def of(cls, time_ns: float, arithmetic_ns: float, memory_ns: float) -> Causes:
        """Of a kernel that took `time_ns`, whose operations take at least one and whose bytes at least the other.

        Data from a nearer cache than the bound assumes may take less than `memory_ns`, and the arithmetic of a shared
        machine less than it was measured to take: never more than there is.
        """
        arithmetic = min(time_ns, arithmetic_ns)
        memory = min(max(0.0, memory_ns - arithmetic), time_ns - arithmetic)
        return cls(arithmetic, memory, time_ns - arithmetic - memory)

    @classmethod
    def sum(cls, parts: Iterable[Causes]) -> Causes:
        return sum(parts, cls(0.0, 0.0, 0.0))

    def __add__(self, other: Causes) -> Causes:
        return Causes(
            self.arithmetic_ns + other.arithmetic_ns,
            self.memory_ns + other.memory_ns,
            self.overhead_ns + other.overhead_ns,
        )


@dataclass(frozen=True)
class PhaseTime:
    """A part of a layer: `flops` and `bytes` are those that it executes and moves, `bound_ns` is of its own limit."""

    name: str
    time_ns: float
    flops: float
    bytes: float
    bound_ns: float


@dataclass(frozen=True)
class Alternative:
    """An algorithm that was considered and not taken: its predicted (and measured) time, or why it was refused."""

    algorithm: str
    seconds: float | None
    measured_seconds: float | None
    refusal: str


class Efficiencies:
    """What layers, blocks and networks have in common: a time, its bound, and what was done in it."""

    if TYPE_CHECKING:  # fields of some, sums in others

        @property
        def flops(self) -> int: ...
        @property
        def executed_flops(self) -> float: ...
        @property
        def bytes(self) -> int: ...
        @property
        def time_ns(self) -> float: ...
        @property
        def bound_ns(self) -> float: ...
        @property
        def peak_flops_per_s(self) -> float: ...

    @property
    def operational_intensity(self) -> float:
        """Operations a byte."""
        return _ratio(self.flops, self.bytes)

    @property
    def attainable_efficiency(self) -> float:
        """What the roofline allows the direct algorithm, at most 1."""
        return self._efficiency(self.flops, self.bound_ns)

    @property
    def computational_efficiency(self) -> float:
        """Of the direct algorithm's operations, above 1 where a fast one needs fewer: time = flops / (peak x this)."""
        return self._efficiency(self.flops, self.time_ns)

    @property
    def effective_efficiency(self) -> float:
        """Of the operations that are executed: at most 1, but for noise."""
        return self._efficiency(self.executed_flops, self.time_ns)

    def _efficiency(self, flops: float, time_ns: float) -> float:
        return _ratio(flops * 1e9, time_ns * self.peak_flops_per_s)


@dataclass(frozen=True)
class LayerAnalysis(Efficiencies):
    """One step of a plan.

    Attributes:
        name, shape, algorithm: as in a profile. block: position of its block in `Analysis.blocks`.
        flops: of the direct algorithm; 0 for layers that only move data. executed_flops: of the one that was chosen.
        bytes: the least it moves. bound_ns: the roofline's least time of the direct algorithm.
        time_ns: measured, or predicted where nothing ran. predicted_ns: by the planner.
        peak_flops_per_s: of the threads that it runs on.
        causes: what the time is made of. phases: () for an algorithm with one only.
        reason: why the algorithm was chosen, in words. alternatives: the others, () where there is no choice.
    """

    name: str
    shape: str
    algorithm: str
    block: int
    flops: int
    executed_flops: float
    bytes: int
    bound_ns: float
    time_ns: float
    predicted_ns: float
    peak_flops_per_s: float
    causes: Causes
    phases: tuple[PhaseTime, ...] = ()
    reason: str = ""
    alternatives: tuple[Alternative, ...] = ()

    @property
    def lost_ns(self) -> float:
        """Time above the bound, which a faster kernel might win; 0 where the layer is below it."""
        return max(0.0, self.time_ns - self.bound_ns)


@dataclass(frozen=True)
class BlockAnalysis(Efficiencies):
    """Layers that could be one kernel, and what that would change.

    Attributes:
        name: of its last layer, or of the stage it is. layers: positions in `Analysis.layers`, in order.
        flops, executed_flops, bytes, time_ns, bound_ns, causes: sums of the layers.
        fused_bytes: weights, what enters the block and what leaves it. fused_bound_ns: the bound of one such kernel.
    """

    name: str
    layers: tuple[int, ...]
    flops: int
    bytes: int
    time_ns: float
    bound_ns: float
    fused_bytes: int
    fused_bound_ns: float
    peak_flops_per_s: float
    executed_flops: float
    causes: Causes

    @property
    def fused_operational_intensity(self) -> float:
        """Operations a byte, of one kernel."""
        return _ratio(self.flops, self.fused_bytes)

    @property
    def fused_attainable_efficiency(self) -> float:
        return self._efficiency(self.flops, self.fused_bound_ns)


@dataclass(frozen=True)
class Analysis(Efficiencies):
    """A network on a machine.

    Attributes:
        network, machine: names. batch: images. threads: cores.
        is_measured: times are of runs; else they are predicted from the plan.
        peak_flops_per_s: of these threads. bytes_per_s: cache level ("l3", "dram") -> bandwidth of these threads.
        time_ns: of one inference; the layers' times add up to it, but for noise.
        layers: in the order they run. blocks: every layer is in one of them.
    """

    network: str
    machine: str
    batch: int
    threads: int
    is_measured: bool
    peak_flops_per_s: float
    bytes_per_s: dict[str, float]
    time_ns: float
    layers: tuple[LayerAnalysis, ...]
    blocks: tuple[BlockAnalysis, ...]

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    @property
    def executed_flops(self) -> float:
        return sum(layer.executed_flops for layer in self.layers)

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers)

    @property
    def ridge(self) -> float:
        """Operations a byte of main memory above which a kernel is not bound by it."""
        return self.peak_flops_per_s / self.bytes_per_s["dram"]

    @property
    def ideal_ns(self) -> float:
        """The direct algorithm at peak."""
        return self.flops * 1e9 / self.peak_flops_per_s

    @property
    def bound_ns(self) -> float:
        """Least time if every layer is a kernel."""
        return sum(layer.bound_ns for layer in self.layers)

    @property
    def fused_bound_ns(self) -> float:
        """Least time if every block is a kernel."""
        return sum(block.fused_bound_ns for block in self.blocks)

    @property
    def waterline(self) -> float:
        """The computational efficiency that the layers' bounds allow."""
        return self.attainable_efficiency

    @property
    def fused_waterline(self) -> float:
        """The same if every block is a kernel."""
        return self._efficiency(self.flops, self.fused_bound_ns)

    @property
    def causes(self) -> Causes:
        return Causes.sum(layer.causes for layer in self.layers)

    def summary(self) -> list[str]:
        """The network in a few lines of text."""
        source = "measured" if self.is_measured else "predicted from the plan, nothing ran"
        causes = self.causes
        arithmetic, memory, overhead = (
            _percent(_ratio(part, causes.time_ns))
            for part in (causes.arithmetic_ns, causes.memory_ns, causes.overhead_ns)
        )
        peak = f"{self.peak_flops_per_s / 1e9:.4g} GFLOP/s"
        return [
            f"{self.network} on {self.machine}: batch {self.batch}, {self.threads} thread"
            f"{'s' if self.threads > 1 else ''}, {source}",
            "latency = operations / (peak x efficiency): "
            f"{self.flops / 1e9:.4g} GFLOP / ({peak} x {_percent(self.computational_efficiency)}) "
            f"= {self.time_ns / 1e6:.4g} ms",
            f"executed: {self.executed_flops / 1e9:.4g} GFLOP, effective efficiency "
            f"{_percent(self.effective_efficiency)}",
            f"waterline: {_percent(self.waterline)} of peak, {self.bound_ns / 1e6:.4g} ms",
            f"waterline with every block fused: {_percent(self.fused_waterline)} of peak, "
            f"{self.fused_bound_ns / 1e6:.4g} ms",
            f"time: {arithmetic} arithmetic, {memory} memory beyond it, {overhead} overhead",
        ]

    def __str__(self) -> str:
        return "\n".join(self.summary())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the derived ones among them, ready for JSON."""
        plain = asdict(self)
        for values, each in zip(plain["layers"], self.layers, strict=True):
            values |= _derived(each)
        for values, block in zip(plain["blocks"], self.blocks, strict=True):
            values |= _derived(block)
        return plain | {"totals": _derived(self) | {"causes": asdict(self.causes)}}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)


def _derived(each: Efficiencies) -> dict[str, float]:
    """What properties compute, as far as it is a number: what is not finite is left out, as JSON has none."""
    names = [name for name in dir(type(each)) if isinstance(getattr(type(each), name), property)]
    found = {name: getattr(each, name) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ratio(a: float, b: float) -> float:
    return a / b if b else 0.0
