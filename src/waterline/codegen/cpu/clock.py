"""How long a kernel spends in each of its phases, counted by the kernel itself.

A phase has a counter of 64 bits, alone in its cache line; every call of a kernel, in every thread, adds the ticks that
it spent there. They are read as shares of the kernel's time: `Emitter.ticks` has no unit. A lap costs some ten
nanoseconds, so kernels count always, and a profile runs the code that every run does.
"""

from __future__ import annotations

from waterline.codegen.cpu.emitter import CACHE_LINE_BYTES, I64, Emitter, Value, i64

COUNTER_BYTES = CACHE_LINE_BYTES


def add_ticks(e: Emitter, counters: Value, phase: int, ticks: Value) -> None:
    """Adds to the counter of `phase`; threads may do so at the same time."""
    e.builder.atomic_rmw("add", e.at(counters, phase * COUNTER_BYTES), ticks, "monotonic")


class PhaseClock:
    """Laps of one function: `start()`, then `lap(phase)` at the end of each phase, `flush()` once before it returns.

    Time between `lap` and the next `start` counts for no phase. Sums live in the function's frame, of which LLVM makes
    registers where it has some to spare; memory that threads share is touched by `flush` alone.

    Args:
        counters: what a `kernel.Clock` argument gives; phases are numbered in its order.
    """

    def __init__(self, e: Emitter, counters: Value) -> None:
        self._e = e
        self._counters = counters
        self._last = self._slot()
        self._sums: dict[int, Value] = {}

    def start(self) -> None:
        self._e.store(self._e.ticks(), self._last, 0, 8)

    def lap(self, phase: int) -> None:
        """What has passed since `start` or the last lap belongs to `phase`."""
        e = self._e
        if phase not in self._sums:
            self._sums[phase] = self._slot()
        total, now = self._sums[phase], e.ticks()
        e.store(e.add(e.load_i64(total), e.sub(now, e.load_i64(self._last))), total, 0, 8)
        e.store(now, self._last, 0, 8)

    def flush(self) -> None:
        for phase, total in self._sums.items():
            add_ticks(self._e, self._counters, phase, self._e.load_i64(total))

    def _slot(self) -> Value:
        """Eight bytes of the frame, zero from the function's beginning on."""
        e = self._e
        slot = e.stack(I64.width // 8, 8)
        with e.builder.goto_entry_block():
            e.store(i64(0), slot, 0, 8)
        return slot
