"""The roofline of a step: the least that it moves, from where, and the least time that follows.

Definitions (Lavin, "On the Efficiency of Convolutional Neural Networks", 2024): a step moves every input, weight and
output once at least, and takes max(operations / peak, bytes / bandwidth). Biases, a few values a channel, are left out.
"""

from __future__ import annotations

from waterline.machine import Rates
from waterline.planner import Step
from waterline.spec import DTYPE_BYTES


def step_bytes(step: Step) -> int:
    """Least bytes: every input, weight and output once."""
    if step.spec is not None:
        return step.spec.least_bytes
    return DTYPE_BYTES[step.dtype] * sum(storage.view.elems for storage in (*step.inputs, *step.outputs))


def level_of(moved_bytes: float, machine: Rates) -> str:
    """Where so many bytes come from: "l3" if they fit what a process has of the last-level cache, else "dram"."""
    return "l3" if moved_bytes <= machine.l3_share_bytes else "dram"


def moving_ns(moved_bytes: float, machine: Rates, threads: int) -> float:
    """Least time in which a step's bytes move."""
    return 1e9 * moved_bytes / machine.bytes_per_s(level_of(moved_bytes, machine), threads)


def arithmetic_ns(flops: float, machine: Rates, threads: int) -> float:
    """Time of so many operations at peak."""
    return 1e9 * flops / machine.peak(threads)


def bound_ns(step: Step, machine: Rates, threads: int) -> float:
    """The roofline's least time of a step, by the direct algorithm."""
    flops = step.spec.flops if step.spec else 0
    return max(arithmetic_ns(flops, machine, threads), moving_ns(step_bytes(step), machine, threads))
