"""Tuning: the few best candidates of every layer are measured within a time budget, the important layers first.

Layers between whose candidates there is no choice come last. The clock is looked at between two candidates that are
prepared (their weights packed, their kernels compiled) and between two rounds: the budget is overrun by one of these at
most. What was measured of the last layer by then is kept, and marked as incomplete.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from waterline.errors import Error
from waterline.machine import Machine, available_memory_bytes
from waterline.planner import Timing, TuningTask
from waterline.planner.choice import Offer
from waterline.runtime.cache import ObjectCache
from waterline.runtime.measured_layers import MeasuredLayer, MeasuredLayers
from waterline.runtime.trial import Displacement, Trial
from waterline.spec import ConvSpec

_log = logging.getLogger("waterline.tuning")

# Rounds in which all candidates of a layer take turns. After the first few those that are clearly slower are left out.
FIRST_ROUNDS = 2
LEAST_ROUNDS = 5
MOST_ROUNDS = 20
CLEARLY_SLOWER = 1.5
# Of a candidate's times. Other programs only ever add time: the lower quartile is nearer to the truth than the median.
QUANTILE = 0.25
# Weights of a layer's candidates that are held at once. Only fully connected layers come near it, and these are bound
# by memory whatever the blocking is.
MOST_WEIGHT_BYTES = 1 << 30


@dataclass(frozen=True)
class Progress:
    """What `on_progress` is told: before a layer (`task`, `done` of `total` are measured), and between its rounds."""

    task: TuningTask
    done: int
    total: int
    rounds: int


@dataclass(frozen=True)
class Tuned:
    """How far it came: layers measured now, known before, and left.

    Left for want of time, the last one perhaps with a part of its times, or because no candidate could be run.
    """

    measured: tuple[str, ...]
    known: tuple[str, ...]
    left: tuple[str, ...]


class AnyTrial(Protocol):
    """Candidates of a layer that take turns, see `Trial`."""

    def run(self, threads: int) -> np.ndarray: ...


OnProgress = Callable[[Progress], None]
Clock = Callable[[], float]
MakeTrial = Callable[[list[Offer], Any], AnyTrial]  # of candidates, like a trial of more of them (or None)


def missing(tasks: Sequence[TuningTask], memory: MeasuredLayers, threads: int | None = None) -> list[TuningTask]:
    """Layers that were not measured yet, or not to the end; with `threads`, also those of other conditions."""
    known = memory.load()

    def is_known(task: TuningTask) -> bool:
        layer = known.get(task.key)
        if layer is None or not layer.is_complete:
            return False
        return threads is None or (layer.threads, layer.batch) == (threads, task.spec.n)

    return [task for task in tasks if not is_known(task)]


def tune(
    tasks: Sequence[TuningTask],
    wanted: Sequence[TuningTask],
    memory: MeasuredLayers,
    machine: Machine,
    cache: ObjectCache,
    *,
    threads: int,
    seconds: float,
    on_progress: OnProgress | None = None,
    clock: Clock = time.monotonic,
) -> Tuned:
    """`tune_with` trials on this machine's cores."""
    displacement = Displacement(machine, max((task.others_bytes for task in wanted), default=0))

    def trials(task: TuningTask) -> MakeTrial:
        displaced = displacement.rows(task.others_bytes)
        return lambda offers, like: Trial(task.spec, offers, machine, cache, displaced, like)

    return tune_with(
        trials, tasks, wanted, memory, threads=threads, seconds=seconds, on_progress=on_progress, clock=clock
    )


def tune_with(
    trials: Callable[[TuningTask], MakeTrial],
    tasks: Sequence[TuningTask],
    wanted: Sequence[TuningTask],
    memory: MeasuredLayers,
    *,
    threads: int,
    seconds: float,
    on_progress: OnProgress | None = None,
    clock: Clock = time.monotonic,
) -> Tuned:
    """Measure the `wanted` ones of a network's `tasks`, and remember each layer as soon as it is measured.

    Half of `seconds` is shared out equally, half by the layers' predicted parts of the network's time. What
    `on_progress` raises ends the tuning, and so does KeyboardInterrupt wherever it comes; what was measured is kept.
    """
    deadline = clock() + seconds
    queue = sorted(wanted, key=lambda task: (len(task.candidates) == 1, -task.weight))
    measured: list[str] = []
    left: list[str] = []
    while queue and clock() < deadline:
        task = queue[0]
        share = (task.weight / max(sum(each.weight for each in queue), 1e-12) + 1 / len(queue)) / 2
        now = clock()
        until = now + share * (deadline - now) if deadline < math.inf else deadline
        _tell(on_progress, task, len(measured), len(wanted), 0)
        turns = _Turns(task, trials(task))
        turns.prepare(lambda: clock() < deadline)
        rounds = 0
        while turns.running and rounds < MOST_ROUNDS and clock() < deadline:
            turns.round(threads)
            rounds += 1
            _tell(on_progress, task, len(measured), len(wanted), rounds)
            if rounds == FIRST_ROUNDS:
                turns.drop_slow()
            if rounds >= LEAST_ROUNDS and (len(turns.running) == 1 or clock() >= until):
                break
        queue.pop(0)
        is_complete = rounds >= LEAST_ROUNDS
        (measured if is_complete else left).append(task.key)
        if rounds:
            _remember(memory, MeasuredLayer(task.key, threads, task.spec.n, turns.timings(), is_complete), task.name)
    remembered = {task.key for task in wanted}
    return Tuned(
        tuple(measured),
        tuple(task.key for task in tasks if task.key not in remembered),
        tuple([task.key for task in queue] + left),
    )


def _remember(memory: MeasuredLayers, layer: MeasuredLayer, name: str) -> None:
    """An incomplete layer does not take the place of a complete one, whatever its conditions were."""
    known = memory.load().get(layer.key)
    if layer.is_complete or known is None or not known.is_complete:
        memory.add(layer)
        times = ", ".join(f"{t.label} {1e6 * (t.seconds or 0):.1f} us" for t in layer.timings)
        _log.info("%s%s: %s", name, "" if layer.is_complete else " (incomplete)", times)


def _tell(on_progress: OnProgress | None, task: TuningTask, done: int, total: int, rounds: int) -> None:
    if on_progress is not None:
        on_progress(Progress(task, done, total, rounds))


class _Turns:
    """The candidates of a layer that are still in the race, and the times of all of them.

    Attributes:
        running: candidates in the race. samples: seconds of every candidate that was ever in it.
    """

    def __init__(self, task: TuningTask, make: MakeTrial) -> None:
        self._task, self._trial_of = task, make
        self.running: list[Offer] = []
        self.samples: dict[Offer, list[float]] = {}

    def prepare(self, has_time: Callable[[], bool]) -> None:
        """Pack and compile all candidates. Where the time does not last, none is in the race."""
        able: list[Offer] = []
        trial: AnyTrial | None = None
        for offer in self._task.candidates[: _affordable(self._task.spec)]:
            if not has_time():
                return
            try:
                trial = self._trial_of([offer], trial)
                able.append(offer)
            except Error as error:
                _log.warning("%s: %s cannot be measured: %s", self._task.name, offer.label, error.message)
        if trial is not None:
            self.samples = {offer: [] for offer in able}
            self._set(able, trial)

    def _set(self, offers: list[Offer], like: AnyTrial) -> None:
        self._trial = self._trial_of(offers, like)
        self.running = offers
        self._is_cold = True

    def round(self, threads: int) -> None:
        if self._is_cold:
            self._trial.run(threads)  # pages and code are touched for the first time
            self._is_cold = False
        for offer, seconds in zip(self.running, self._trial.run(threads), strict=True):
            self.samples[offer].append(float(seconds))

    def drop_slow(self) -> None:
        best = min(min(self.samples[offer]) for offer in self.running)
        near = [offer for offer in self.running if min(self.samples[offer]) <= CLEARLY_SLOWER * best]
        if len(near) < len(self.running):
            self._set(near, self._trial)

    def timings(self) -> tuple[Timing, ...]:
        """Of one image, the fastest first; None for candidates that could not be run."""
        found = []
        for offer, seconds in self.samples.items():
            each = float(np.quantile(seconds, QUANTILE)) / self._task.spec.n
            found.append(Timing(offer.label, offer.config, max(each, 1e-9)))
        found.sort(key=lambda timing: timing.seconds or 0.0)
        unable = [offer for offer in self._task.candidates if offer not in self.samples]
        return (*found, *(Timing(offer.label, offer.config, None) for offer in unable))


def _affordable(spec: ConvSpec) -> int:
    """How many candidates' weights are held at once, beside the weights themselves: two at least."""
    available = available_memory_bytes()
    most_bytes = MOST_WEIGHT_BYTES if available is None else min(available // 4, MOST_WEIGHT_BYTES)
    return max(2, most_bytes // max(spec.weight_bytes, 1) - 1)
