"""One layer as a network calls it: on NHWC memory, by the thread team, timed by the native code's own clock.

Unlike an engine that is called with NCHW data there are no changes of layout around it, and unlike `profile` there may
be several *copies* of the layer, each with packed weights, tables and an output of its own, called in turn: where they
exceed the last-level cache together, each finds its own data in memory, as it would in a large network. Before each
copy the input is read, so that it is as near as it can be: the layer before would have written it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from waterline.algorithms import Algorithm, Views
from waterline.api import environment
from waterline.bench.experiments import Listener
from waterline.bench.timing import Protocol, Timing, interleave
from waterline.bench.workload import Workload
from waterline.codegen.cpu.memory import ALIGNMENT_BYTES, aligned_zeros
from waterline.graph.ops import Conv, Reduce
from waterline.machine import Machine
from waterline.planner import Buffer, CpuTarget, Plan, Step, Storage
from waterline.planner.lower import lower
from waterline.planner.memory import Lifetime, place
from waterline.runtime.calibration import measure_peak
from waterline.runtime.program import Program
from waterline.runtime.weights import PackedWeights
from waterline.spec import ConvSpec, TensorView, channels_last

_PEAK_S = 0.005
# Random numbers are repeated, since hundreds of millions take longer than measuring; a prime, so that images differ.
_RANDOM_ELEMS = 65_521
_LINE_ELEMS = ALIGNMENT_BYTES // 4


def as_run(spec: ConvSpec) -> ConvSpec:
    """The layer as a network runs it: first layers get a padded copy of the image with the change of layout."""
    layers = lower(Workload.layer(spec).graph(spec.n)).layers
    (found,) = [layer.spec for layer in layers if isinstance(layer.spec, ConvSpec)]
    return found


def views_of(spec: ConvSpec) -> Views:
    """Dense NHWC tensors."""
    x, y = (spec.n, spec.c, spec.h, spec.w), (spec.n, spec.k, spec.p, spec.q)
    return Views(TensorView.dense(x, channels_last(4)), TensorView.dense(y, channels_last(4)))


class Tensors:
    """Data of a layer, uniform in [0, 1), for every way to compute it.

    Args:
        copies: of the output.
        weight: (K, C, R, S) of its own.

    Attributes:
        spec: as a network runs it. asked: the layer itself; they differ in padding.
        x: (N, H, W, C) of `spec`, zeros where it is padded. weight: (K, C, R, S). y: an output (N, P, Q, K) a copy.
    """

    def __init__(self, asked: ConvSpec, copies: int = 1, weight: np.ndarray | None = None) -> None:
        self.asked, self.spec = asked, as_run(asked)
        spec = self.spec
        elems = spec.k * spec.c * spec.taps
        self.weight = _uniform(elems, 1).reshape(spec.k, spec.c, spec.r, spec.s) if weight is None else weight
        self.x = aligned_zeros(spec.n * spec.h * spec.w * spec.c).reshape(spec.n, spec.h, spec.w, spec.c)
        top, left = (asked.pad[0], asked.pad[1]) if spec.pad != asked.pad else (0, 0)
        inside = self.x[:, top : top + asked.h, left : left + asked.w]
        image_elems = asked.h * asked.w * asked.c
        for n in range(spec.n):
            inside[n] = _uniform(image_elems, 0, n * image_elems).reshape(asked.h, asked.w, asked.c)
        elems = spec.n * spec.p * spec.q * spec.k
        stride = -(-elems // _LINE_ELEMS) * _LINE_ELEMS  # memory that is not aligned would be copied
        outputs = aligned_zeros(copies * stride).reshape(copies, stride)
        outputs.fill(np.nan)
        self.y = [each[:elems].reshape(spec.n, spec.p, spec.q, spec.k) for each in outputs]

    @property
    def copies(self) -> int:
        return len(self.y)

    def nchw(self) -> np.ndarray:
        """The input without padding, as engines are called with."""
        asked, spec = self.asked, self.spec
        top, left = (asked.pad[0], asked.pad[1]) if spec.pad != asked.pad else (0, 0)
        return np.ascontiguousarray(self.x[:, top : top + asked.h, left : left + asked.w].transpose(0, 3, 1, 2))


class LayerRun:
    """A layer's copies with one algorithm and config, ready to be run one after the other.

    Args:
        is_repeated: all use the first copy's weights and output, and so find them where they left them.

    Raises:
        Refused, Error: it cannot be packed, or there is no memory for it.
    """

    def __init__(
        self,
        tensors: Tensors,
        algorithm: Algorithm,
        config: Any,
        machine: Machine,
        threads: int,
        *,
        is_repeated: bool = False,
    ) -> None:
        self.tensors, self.algorithm, self.config, self.threads = tensors, algorithm, config, threads
        spec, views = tensors.spec, views_of(tensors.spec)
        copies = 1 if is_repeated else tensors.copies
        constants = {"x": tensors.x.reshape(-1), "sums": aligned_zeros(spec.n * spec.h)}
        constants |= {f"weight{i}": tensors.weight for i in range(copies)}
        constants |= {f"y{i}": tensors.y[i].reshape(-1) for i in range(copies)}
        rows = Storage("x", 0, TensorView.dense((spec.n * spec.h, spec.w * spec.c)))
        sums = Storage("sums", 0, TensorView.dense((spec.n * spec.h, 1)))
        layer = Step(
            "layer",
            Conv(),
            (Storage("x", 0, views.x), Storage("weight0", 0, TensorView.dense(tensors.weight.shape))),
            (Storage("y0", 0, views.y),),
            algorithm=algorithm.name,
            spec=spec,
            config=config,
            weight="weight0",
        )
        sizes = CpuTarget(machine).workspaces(layer)
        offsets, arena_bytes = place([Lifetime(name, size, 0, 0) for name, size in sizes.items()])
        layer = replace(layer, workspaces=tuple(offsets.items()))
        steps: list[Step] = []
        for i in range(copies):
            steps.append(Step(f"input{i}", Reduce("max", (1,)), (rows,), (sums,)))
            outputs = (Storage(f"y{i}", 0, views.y),)
            steps.append(replace(layer, name=f"layer{i}", outputs=outputs, weight=f"weight{i}"))
        buffers = {name: Buffer("constant", array.size, constant=name) for name, array in constants.items()}
        plan = Plan(spec.id, machine.name, (), (), buffers, tuple(steps), arena_bytes)
        weights = PackedWeights(constants, machine)
        self._program = Program(plan, weights, machine, environment.object_cache())
        self._times = np.zeros((len(self._program.calls) + 1, 2), np.int64)
        self._steps = np.array([bound.step for bound in self._program.calls])
        self._phases = np.array([bound.call.phase for bound in self._program.calls])
        self.kernels = [bound.call.kernel for bound in self._program.calls if bound.step == 1]
        self.samples_ns: list[float] = []
        self.phases_ns: dict[str, list[float]] = {}

    def run(self) -> None:
        """Each copy once. Adds the median over the copies to `samples_ns`, and each phase's to `phases_ns`."""
        self._times[:] = 0
        self._program.run([], self.threads, self._times)
        moments = np.maximum.accumulate(self._times[:, 0] * 10**9 + self._times[:, 1])
        took = np.diff(moments).astype(float)
        is_layer = self._steps % 2 == 1
        totals = np.bincount(self._steps[is_layer] // 2, took[is_layer])
        self.samples_ns.append(float(np.median(totals)))
        for phase in dict.fromkeys(self._phases[is_layer]):
            if phase:
                median = float(np.median(took[is_layer & (self._phases == phase)]))
                self.phases_ns.setdefault(str(phase), []).append(median)

    def calls(self) -> Calls:
        """For `in_rounds`."""
        return Calls(self.run, lambda: self.samples_ns)

    def output(self) -> np.ndarray:
        """(N, P, Q, K) of the first copy, computed anew; the next run of another algorithm overwrites it."""
        self.tensors.y[0].fill(np.nan)
        self.run()
        self.samples_ns.pop()
        for samples in self.phases_ns.values():
            samples.pop()
        return self.tensors.y[0]


class Calls:
    """Something to be timed that keeps its own times: `run` does it once, `times_ns` gives one time a run so far."""

    def __init__(self, run: Callable[[], object], times_ns: Callable[[], Sequence[float]]) -> None:
        self._run, self._times_ns, self.count = run, times_ns, 0

    def run(self) -> None:
        self.count += 1
        self._run()

    def times_ns(self) -> list[float]:
        return list(self._times_ns())[: self.count]


def in_rounds(
    variants: Mapping[str, Calls],
    machine: Machine,
    threads: int,
    protocol: Protocol,
    what: str,
    listener: Listener,
) -> tuple[dict[str, Timing], list[float]]:
    """Variant -> its own times, round by round, and the peak of `threads` cores in each round, in flops a second.

    The first run of a turn is to warm up, where it is not the only one. `what` is measured, for the listener.
    """
    peaks: list[float] = []
    marks: list[dict[str, int]] = []

    def each_round() -> None:
        marks.append({name: calls.count for name, calls in variants.items()})
        peaks.append(measure_peak(machine, _PEAK_S, threads))

    def on_round(rounds: int, share: float) -> None:
        listener.show(f"{what}: {rounds} rounds, {100 * share:.0f} %")

    runs = {name: calls.run for name, calls in variants.items()}
    interleave(runs, protocol, each_round=each_round, on_round=on_round)
    marks.append({name: calls.count for name, calls in variants.items()})
    timings = {}
    for name, calls in variants.items():
        times = calls.times_ns()
        turns = [times[a[name] : b[name]] for a, b in pairwise(marks)]
        timings[name] = Timing(name, [turn[1:] if len(turn) > 1 else turn for turn in turns])
    return timings, peaks


def efficiencies(timing: Timing, flops: int, peaks: Sequence[float]) -> list[float]:
    """Of each round: flops / (its median time x its peak)."""
    return [
        flops / (statistics.median(samples) * 1e-9) / peak for samples, peak in zip(timing.rounds, peaks, strict=True)
    ]


def _uniform(elems: int, seed: int, start: int = 0) -> np.ndarray:
    """Float32 in [0, 1): `elems` of an endless repetition, from the element `start` on."""
    numbers = np.random.default_rng(seed).random(_RANDOM_ELEMS, np.float32)
    return np.resize(np.roll(numbers, -(start % _RANDOM_ELEMS)), elems)
