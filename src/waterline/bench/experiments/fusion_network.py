"""One network of the experiment: its three plans, ready to run, and what a round of inferences measured of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from waterline.api import environment
from waterline.bench.comparison import AGREEMENT, difference
from waterline.bench.experiments.fusion_blocks import Names, name_of, whole_blocks
from waterline.bench.timing import Protocol, Ratio, Timing, interleave
from waterline.bench.workload import Workload
from waterline.errors import Error
from waterline.graph.block import BlockSpec
from waterline.graph.passes import simplify
from waterline.machine import Machine
from waterline.planner import PlanOptions, Step, plan
from waterline.runtime.program import Program
from waterline.runtime.weights import PackedWeights

# Without fused layers; with every whole residual block fused; by the planner's own choice.
UNFUSED, WHOLE, PLANNER = VARIANTS = ("unfused", "whole blocks", "planner")
YES, PARTLY, NO = "yes", "partly", "no"
_ALIGNMENT_BYTES = 64  # of each thread's memory


@dataclass
class Subject:
    """A network and batch with a program for each variant. `inputs` are NCHW."""

    name: str
    inputs: list[np.ndarray]
    programs: dict[str, Program]

    @classmethod
    def prepare(cls, name: str, batch: int, machine: Machine, image_size: int | None = None) -> Subject:
        """Plan and compile.

        Raises:
            InvalidArgument: there is no network of this name, or its image is too small.
        """
        workload = Workload.named(name, image_size)
        graph = simplify(workload.graph(batch))
        unfused = plan(graph, machine, PlanOptions(block_fusion=False))
        blocks = tuple(whole_blocks(unfused.steps))
        plans = {
            UNFUSED: unfused,
            WHOLE: plan(graph, machine, PlanOptions(blocks=blocks)),
            PLANNER: plan(graph, machine),
        }
        cache = environment.object_cache()
        programs = {
            variant: Program(made, PackedWeights(graph.constants, machine), machine, cache)
            for variant, made in plans.items()
        }
        return cls(name, list(workload.inputs(batch).values()), programs)

    @property
    def flops(self) -> int:
        """Of the direct algorithm, for the batch."""
        return self.programs[UNFUSED].plan.flops

    def workspace_bytes(self, variant: str, threads: int) -> tuple[int, int]:
        """Memory between the layers, and what all threads together have beside it."""
        program = self.programs[variant]
        own = -(-program.scratch_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        return program.arena_bytes, own * threads

    def disagreement(self, threads: int) -> dict[str, float]:
        """Variant -> how far its outputs are from those without fusion, as a share of the largest.

        Raises:
            Error: they are too far.
        """
        expected = self.programs[UNFUSED].run(self.inputs, threads)
        found = {}
        for variant, program in self.programs.items():
            found[variant] = difference(program.run(self.inputs, threads), expected)
            if not found[variant] <= AGREEMENT:
                raise Error(
                    f"{self.name}: {variant} and {UNFUSED} disagree by {found[variant]:.2g} of the largest output",
                    "one of them computes something else: `waterline check` tells whether it is this one",
                )
        return found


class Runs:
    """Inferences of a program: whole calls, in which the native code reads its clock after every step.

    Attributes:
        rounds: of each turn the inferences after the first, which warms up; an array (steps,) of nanoseconds each.
    """

    def __init__(self, program: Program, inputs: Sequence[np.ndarray], threads: int) -> None:
        self._program, self._inputs, self._threads = program, inputs, threads
        self._times = np.zeros((len(program.calls) + 1, 2), np.int64)
        self._taken: list[np.ndarray] = []
        self._rows = {step.name: i for i, step in enumerate(program.plan.steps)}
        self.rounds: list[list[np.ndarray]] = []

    @property
    def count(self) -> int:
        return len(self._taken)

    def run(self) -> None:
        self._times[:] = 0
        self._program.run(self._inputs, self._threads, self._times)
        self._taken.append(self._times.copy())

    def divide(self, turns: Sequence[tuple[int, int]]) -> None:
        """Make `rounds` of the inferences from one number to another."""
        taken = [[self._of_steps(each) for each in self._taken[begin:end]] for begin, end in turns]
        self.rounds = [turn[1:] if len(turn) > 1 else turn for turn in taken]

    def _of_steps(self, times: np.ndarray) -> np.ndarray:
        moments = np.maximum.accumulate(times[:, 0] * 10**9 + times[:, 1])
        owners = np.array([bound.step for bound in self._program.calls])
        return np.bincount(owners, np.diff(moments), minlength=len(self._rows))

    def timing(self, steps: Sequence[str] = ()) -> Timing:
        """Of several steps together, or of all."""
        rows = [self._rows[name] for name in steps or self._rows]
        return Timing("", [[float(sample[rows].sum()) for sample in samples] for samples in self.rounds])


@dataclass
class Measured:
    """Of one number of threads.

    Attributes:
        calls: variant -> whole calls from NCHW. runs: the same calls step by step, by the native code's clock.
        peaks: of each round, in operations a second.
    """

    calls: dict[str, Timing]
    runs: dict[str, Runs]
    peaks: list[float] = field(default_factory=list)


def in_turns(
    subject: Subject,
    threads: Sequence[int],
    protocol: Protocol,
    measure_peak: Callable[[int], float],
    on_round: Callable[[int, float], None],
) -> dict[int, Measured]:
    """Number of threads -> what was measured. Every round has a turn of each variant and number of threads, in an order
    that is shuffled.

    Args:
        measure_peak: operations a second of so many threads, now.
    """
    found = {
        count: Measured({}, {name: Runs(program, subject.inputs, count) for name, program in subject.programs.items()})
        for count in threads
    }
    variants = {(name, count): runs for count, measured in found.items() for name, runs in measured.runs.items()}
    marks: list[list[int]] = []

    def mark() -> None:
        marks.append([runs.count for runs in variants.values()])

    def each_round() -> None:
        mark()
        for count, measured in found.items():
            measured.peaks.append(measure_peak(count))

    calls = {f"{name}, {count}": runs.run for (name, count), runs in variants.items()}
    timings = interleave(calls, protocol, each_round=each_round, on_round=on_round)
    mark()
    for number, ((name, count), runs) in enumerate(variants.items()):
        runs.divide([(begin[number], end[number]) for begin, end in pairwise(marks)])
        found[count].calls[name] = timings[f"{name}, {count}"]
    return found


def block_columns(subject: Subject, measured: Measured, variant: str) -> dict[str, list[Any]]:
    """The fused blocks of a variant, a column for each quantity: nanoseconds, and `ratio`, the time of the same layers
    without fusion by that of the block, round by round. `planner` says whether the planner fuses just these layers;
    `predicted_ratio` is what it expected of that on all cores; `flops` are the direct algorithm's."""
    fused, unfused = measured.runs[variant], measured.runs[UNFUSED]
    planned = [_layers(step) for step, _ in _blocks(subject.programs[PLANNER])]
    columns: dict[str, list[Any]] = {
        name: [] for name in ("name", "shape", "layers", "unfused_ns", "fused_ns", "ratio", "p10", "p90", "planner")
    }
    columns |= {"predicted_ratio": [], "flops": []}
    for step, spec in _blocks(subject.programs[variant]):
        layers = _layers(step)
        alone, together = unfused.timing(layers), fused.timing([step.name])
        ratio = Ratio.between(alone, together)
        block, parts = (candidate.seconds or 0.0 for candidate in step.candidates[:2])
        values: list[Any] = [name_of(layers), spec.with_batch(1).id, list(layers), alone.median_ns, together.median_ns]
        values += [ratio.median, ratio.p10, ratio.p90, _planned(layers, planned), parts / block, spec.flops]
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return columns


def _blocks(program: Program) -> Iterator[tuple[Step, BlockSpec]]:
    for step in program.plan.steps:
        if isinstance(step.spec, BlockSpec):
            yield step, step.spec


def _layers(step: Step) -> Names:
    return tuple(part.name for part in step.parts)


def _planned(layers: Names, planned: Sequence[Names]) -> str:
    if layers in planned:
        return YES
    return PARTLY if any(set(layers) & set(each) for each in planned) else NO
