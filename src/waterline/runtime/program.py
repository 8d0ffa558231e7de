"""A plan made ready to run: kernels loaded, weights packed, the table of steps laid out for the native walker."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from waterline import operators
from waterline.algorithms import by_name
from waterline.codegen.cpu import walker
from waterline.codegen.cpu.clock import COUNTER_BYTES
from waterline.codegen.cpu.kernel import Call, Clock, Input, Number, Output, Packed, Workspace
from waterline.codegen.cpu.memory import address, aligned_bytes, aligned_copy, working_bytes
from waterline.machine import Machine
from waterline.planner import Plan, Step, Storage, views_of
from waterline.planner.lower import Copy
from waterline.runtime.cache import ObjectCache
from waterline.runtime.loader import load_kernels
from waterline.runtime.team import team
from waterline.runtime.weights import PackedWeights

ELEM_BYTES = 4
# Roots of memory that a context brings along; all others are names of the plan's buffers.
ARENA = ""
COUNTERS = "\0counters"


@dataclass(frozen=True)
class BoundCall:
    """A kernel call of a step; `words` are numbers and addresses, with (root, offset) where memory is not yet known."""

    step: int
    call: Call
    words: tuple[int | tuple[str, int], ...]


class Program:
    """A plan bound to packed weights and kernels. Immutable; runs happen in contexts, one a concurrent caller."""

    def __init__(
        self,
        plan: Plan,
        weights: PackedWeights,
        machine: Machine,
        cache: ObjectCache,
        on_compile: Callable[[int, int], None] | None = None,
    ) -> None:
        self.plan = plan
        self.machine = machine
        self._cache = cache
        self._keep: list[np.ndarray] = []
        self.calls: list[BoundCall] = []
        self.counters: list[tuple[int, str]] = []  # the call and the phase of each
        weights.prepare(plan.steps)
        for index, step in enumerate(plan.steps):
            self._bind(index, step, weights)
        self.entries = load_kernels([bound.call.kernel for bound in self.calls], machine, cache, on_compile)
        self.scratch_bytes = max((bound.call.scratch_bytes for bound in self.calls), default=0)
        self._contexts: list[Context] = []

    def _bind(self, index: int, step: Step, weights: PackedWeights) -> None:
        packed: dict[str, np.ndarray] = {}
        if step.spec is not None:
            algorithm = by_name(step.algorithm)
            views = views_of(step)
            calls: Sequence[Call] = algorithm.implement(step.spec, step.config, views, self.machine).calls
            packed |= weights.of(step)
            for name, table in algorithm.pack_tables(step.spec, step.config, views, self.machine).items():
                packed[name] = aligned_copy(table)
        else:
            inputs, outputs = [s.view for s in step.inputs], [s.view for s in step.outputs]
            if isinstance(step.op, Copy):
                calls = operators.copy(inputs[0], outputs[0], self.machine)
            else:
                calls = operators.lower(step.op, inputs, outputs, self.machine)
        self._keep += packed.values()
        workspaces = dict(step.workspaces)
        for call in calls:
            words: list[int | tuple[str, int]] = []
            for arg in call.args:
                match arg:
                    case Input(i):
                        words.append(self._place(step.inputs[i], weights))
                    case Output(i):
                        words.append(self._place(step.outputs[i], weights))
                    case Packed(name):
                        words.append(address(packed[name]))
                    case Workspace(name):
                        words.append((ARENA, workspaces[name]))
                    case Number(value):
                        words.append(value)
                    case Clock(phases):
                        words.append((COUNTERS, len(self.counters) * COUNTER_BYTES))
                        self.counters += [(len(self.calls), phase) for phase in phases]
            self.calls.append(BoundCall(index, call, tuple(words)))

    def _place(self, storage: Storage, weights: PackedWeights) -> int | tuple[str, int]:
        """An address, or a root and bytes from it."""
        buffer = self.plan.buffers[storage.root]
        offset = storage.offset * ELEM_BYTES
        if buffer.kind == "constant":
            array = weights.constant(buffer.constant)
            self._keep.append(array)
            return address(array) + offset
        if buffer.kind == "arena":
            return ARENA, buffer.offset_bytes + offset
        return storage.root, offset

    # ---- running ------------------------------------------------------------------------------------------------
    def run(
        self,
        inputs: Sequence[np.ndarray],
        num_threads: int,
        times: np.ndarray | None = None,
        ticks: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Runs once. `inputs` are float32, C-contiguous, of the plan's shapes; returns new arrays.

        `times`, an int64 array of shape (calls + 1, 2), receives (seconds, nanoseconds) of a monotonic clock: row 0 at
        the start, row i + 1 when call i was done. `ticks`, int64 of shape (len(counters),), receives what all threads
        together counted in this run.
        """
        outputs = [np.empty(shape, np.float32) for _, shape in self.plan.outputs]
        context = self._borrow()
        try:
            context.run(inputs, outputs, num_threads, times, ticks)
        finally:
            self._give_back(context)
        return outputs

    def _borrow(self) -> Context:
        try:
            return self._contexts.pop()  # a list's own operations need no lock, which a fork could leave shut
        except IndexError:
            return Context(self)

    def _give_back(self, context: Context) -> None:
        self._contexts.append(context)

    @property
    def arena_bytes(self) -> int:
        return self.plan.arena_bytes


class Context:
    """Memory of one run at a time: the arena, the argument arrays and the job."""

    def __init__(self, program: Program) -> None:
        self._program = program
        plan, calls = program.plan, program.calls
        self._arena = working_bytes(max(plan.arena_bytes, 1))
        counters = aligned_bytes(max(len(program.counters), 1) * COUNTER_BYTES)
        self._counters = counters.view(np.int64).reshape(-1, COUNTER_BYTES // 8)[:, 0]
        own = {ARENA: address(self._arena), COUNTERS: address(self._counters)}
        self._args = [np.zeros(len(bound.words), np.int64) for bound in calls]
        self._roots: dict[str, list[tuple[np.ndarray, int, int]]] = {}
        for args, bound in zip(self._args, calls, strict=True):
            for i, word in enumerate(bound.words):
                if isinstance(word, int):
                    args[i] = word
                elif word[0] in own:
                    args[i] = own[word[0]] + word[1]
                else:
                    self._roots.setdefault(word[0], []).append((args, i, word[1]))
        self._steps = aligned_bytes(max(len(calls), 1) * walker.STEP_BYTES).view(np.int64).reshape(-1, 8)
        for row, args, bound in zip(self._steps, self._args, calls, strict=False):
            call = bound.call
            chunks = -(-call.items // call.chunk)
            row[:5] = program.entries[call.kernel], address(args), call.items, call.chunk, chunks
        self._inputs = [self._patches("input", i) for i in range(len(plan.inputs))]
        self._outputs = [self._patches("output", i) for i in range(len(plan.outputs))]
        self._scratch: np.ndarray | None = None
        self._first = next((i for i, row in enumerate(self._steps[: len(calls)]) if row[4] > 0), len(calls))
        self._helpers = -1

    def _patches(self, kind: str, index: int) -> list[tuple[np.ndarray, int, int]]:
        """The words that hold addresses in the caller's array number `index`."""
        return [
            patch
            for root, buffer in self._program.plan.buffers.items()
            if buffer.kind == kind and buffer.index == index
            for patch in self._roots.get(root, [])
        ]

    def run(
        self,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        num_threads: int,
        times: np.ndarray | None,
        ticks: np.ndarray | None,
    ) -> None:
        for patches, array in zip(self._inputs, inputs, strict=True):
            base = array.ctypes.data
            for args, i, offset in patches:
                args[i] = base + offset
        for patches, array in zip(self._outputs, outputs, strict=True):
            base = array.ctypes.data
            for args, i, offset in patches:
                args[i] = base + offset
        program = self._program
        threads = team(program.machine, program._cache)
        if self._helpers != num_threads - 1:
            self._prepare(num_threads)
        job = self._job
        threads.grow(self._helpers)
        job[walker.JOB_TIMES // 8] = 0 if times is None else times.ctypes.data + 16
        job[walker.JOB_REGIONS // 8 :: walker.REGION_BYTES // 8] = self._first << 32
        if times is not None:
            times[0] = divmod(time.monotonic_ns(), 10**9)
        if ticks is not None:
            self._counters[:] = 0
        threads.run(self._job_address)
        if ticks is not None:
            ticks[:] = self._counters[: len(ticks)]

    def _prepare(self, num_threads: int) -> None:
        program = self._program
        job = self._job = aligned_bytes(walker.job_bytes(num_threads)).view(np.int64)
        self._job_address = address(job)
        stride = -(-program.scratch_bytes // 64) * 64
        self._scratch = working_bytes(max(stride * num_threads, 1))
        self._helpers = num_threads - 1
        job[walker.JOB_STEPS // 8] = address(self._steps)
        job[walker.JOB_COUNT // 8] = len(program.calls)
        job[walker.JOB_SCRATCH // 8] = address(self._scratch)
        job[walker.JOB_SCRATCH_BYTES // 8] = stride
        job[walker.JOB_HELPERS // 8] = self._helpers if self._is_worth_waking() else 0

    def _is_worth_waking(self) -> bool:
        chunks = [int(row[4]) for row in self._steps[: len(self._program.calls)]]
        return any(count > 1 for count in chunks)
