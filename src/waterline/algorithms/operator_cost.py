"""The cost of operators, by the bytes they move, and of a step beside its work: on the scale of `Algorithm.cost`."""

from __future__ import annotations

from collections.abc import Mapping

from waterline.graph import ops
from waterline.machine import Machine

# A step's table entry, its first chunks and the end of the last; with several threads the barrier between two steps.
STEP_NS = 300.0
BARRIER_NS = 1200.0

# Of a core's second-level cache, what a step may fill and still find there what the step before has left.
L2_SHARE = 0.5

# How often an operator goes over its bytes; those that are not here do it once. A normalisation reads for sums first;
# exponentials cost time at the rate of about as many passes.
PASSES: Mapping[type[ops.Op], float] = {
    ops.LayerNorm: 1.5,
    ops.GroupNorm: 2.0,
    ops.LocalResponseNorm: 4.0,
    ops.Softmax: 4.0,
    ops.Unary: 1.5,
    ops.Resize: 2.0,
}
# The same where the output lies in another order than the input.
REORDERING_PASSES = 2.5


def passes(op: ops.Op) -> float:
    return PASSES.get(type(op), 1.0)


def step_seconds(machine: Machine) -> float:
    """What a step costs whatever it computes."""
    return 1e-9 * (STEP_NS + (BARRIER_NS if machine.cores > 1 else 0.0))


def operator_seconds(op: ops.Op, moved_bytes: float, machine: Machine, *, reorders: bool = False) -> float:
    """Time of an operator on all cores of the machine.

    Args:
        moved_bytes: of its inputs and outputs.
        reorders: whether the elements of the output lie in another order than those of the input: no vector is read
            whole, and the input comes from the last level, as behind the caller's NCHW.
    """
    near = moved_bytes <= L2_SHARE * machine.l2_bytes * machine.cores and not reorders
    level = "l2" if near else "l3" if moved_bytes <= machine.l3_share_bytes else "dram"
    times = max(passes(op), REORDERING_PASSES) if reorders else passes(op)
    return times * moved_bytes / machine.bytes_per_s(level, machine.cores)
