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


class Profile:
    """Inferences of a program with the time of each step.

    Attributes:
        rounds: of each turn the inferences after the first, which warms up; an array (steps,) of nanoseconds each.
    """

    def __init__(self, program: Program, inputs: Sequence[np.ndarray], threads: int) -> None:
        self._program, self._inputs, self._threads = program, inputs, threads
        self._times = np.zeros((len(program.calls) + 1, 2), np.int64)
        self._owners = np.array([bound.step for bound in program.calls])
        self.samples: list[np.ndarray] = []
        self.rounds: list[list[np.ndarray]] = []
        self.rows = {step.name: i for i, step in enumerate(program.plan.steps)}

    def run(self) -> None:
        self._times[:] = 0
        self._program.run(self._inputs, self._threads, self._times)
        moments = np.maximum.accumulate(self._times[:, 0] * 10**9 + self._times[:, 1])
        took = np.diff(moments).astype(float)
        self.samples.append(np.bincount(self._owners, took, minlength=len(self.rows)))

    def timing(self, steps: Sequence[str]) -> Timing:
        """Of several steps together."""
        rows = [self.rows[name] for name in steps]
        return Timing("", [[float(sample[rows].sum()) for sample in samples] for samples in self.rounds])

    def whole(self) -> Timing:
        return self.timing(list(self.rows))


@dataclass
class Measured:
    """Of one number of threads: whole calls and profiled inferences of each variant, and the peak of each round."""

    calls: dict[str, Timing]
    profiles: dict[str, Profile]
    peaks: list[float] = field(default_factory=list)


def in_turns(
    subject: Subject,
    threads: Sequence[int],
    protocol: Protocol,
    measure_peak: Callable[[int], float],
    on_round: Callable[[int, float], None],
) -> dict[int, Measured]:
    """Number of threads -> what was measured. Every round has a turn of each variant and number of threads, once as a
    whole call and once profiled, in an order that is shuffled.

    Args:
        measure_peak: operations a second of so many threads, now.
    """
    found = {count: Measured({}, {}) for count in threads}
    variants: dict[str, Callable[[], object]] = {}
    for count, measured in found.items():
        for variant, program in subject.programs.items():
            profile = measured.profiles[variant] = Profile(program, subject.inputs, count)
            variants[f"{variant}, {count}"] = _Call(program, subject.inputs, count)
            variants[f"{variant}, {count}, profiled"] = profile.run
    profiles = [profile for measured in found.values() for profile in measured.profiles.values()]
    marks: list[list[int]] = []

    def each_round() -> None:
        marks.append([len(profile.samples) for profile in profiles])
        for count, measured in found.items():
            measured.peaks.append(measure_peak(count))

    timings = interleave(variants, protocol, each_round=each_round, on_round=on_round)
    marks.append([len(profile.samples) for profile in profiles])
    for number, profile in enumerate(profiles):
        turns = [profile.samples[a[number] : b[number]] for a, b in pairwise(marks)]
        profile.rounds = [turn[1:] if len(turn) > 1 else turn for turn in turns]
    for count, measured in found.items():
        measured.calls = {variant: timings[f"{variant}, {count}"] for variant in subject.programs}
    return found


@dataclass
class _Call:
    """One inference."""

    program: Program
    inputs: Sequence[np.ndarray]
    threads: int

    def __call__(self) -> object:
        return self.program.run(self.inputs, self.threads)


def block_columns(subject: Subject, measured: Measured, variant: str) -> dict[str, list[Any]]:
    """The fused blocks of a variant, a column for each quantity: nanoseconds, and `ratio`, the time of the same layers
    without fusion by that of the block, round by round. `planner` says whether the planner fuses just these layers;
    `predicted_ratio` is what it expected of that on all cores."""
    fused, unfused = measured.profiles[variant], measured.profiles[UNFUSED]
    planned = [_layers(step) for step, _ in _blocks(subject.programs[PLANNER])]
    columns: dict[str, list[Any]] = {
        name: [] for name in ("name", "shape", "layers", "unfused_ns", "fused_ns", "ratio", "p10", "p90", "planner")
    }
    columns["predicted_ratio"] = []
    for step, spec in _blocks(subject.programs[variant]):
        layers = _layers(step)
        alone, together = unfused.timing(layers), fused.timing([step.name])
        ratio = Ratio.between(alone, together)
        block, parts = (candidate.seconds or 0.0 for candidate in step.candidates[:2])
        values = (name_of(layers), spec.with_batch(1).id, list(layers), alone.median_ns, together.median_ns)
        values += (ratio.median, ratio.p10, ratio.p90, _planned(layers, planned), parts / block)  # type: ignore[assignment]
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
