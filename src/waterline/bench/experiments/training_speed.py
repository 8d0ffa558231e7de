"""Latency of both networks of a pair, in every engine, all in turns of the same rounds."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from waterline.bench import ours, peers, records
from waterline.bench.comparison import AGREEMENT, difference
from waterline.bench.engine import CannotServe, Engine, Task
from waterline.bench.experiments import Listener
from waterline.bench.experiments.training_networks import PAIRS, size_of, workload_of
from waterline.bench.records import Record
from waterline.bench.timing import Protocol, Ratio, Timing, interleave
from waterline.bench.workload import Workload
from waterline.errors import Error, InvalidArgument
from waterline.machine import Machine
from waterline.runtime.calibration import measure_peak

PROTOCOL = "experiment training: latency"
OURS = "waterline"
PEERS = ("onnxruntime", "openvino", "inductor")
LEAST_ROUNDS = 5
_PEAK_S = 0.005


@dataclass(frozen=True)
class Subject:
    """A network of a pair. `macs`: multiply-adds of one image."""

    name: str
    workload: Workload
    parameters: int
    macs: int


class Field:
    """The engines of a comparison, and which of them are left out.

    Args:
        vs: peers that the user named, and that must be there; None: all of PEERS that are.
    """

    def __init__(self, vs: Sequence[str] | None, listener: Listener) -> None:
        self.peers = [peers.check_name(name) for name in (PEERS if vs is None else vs)]
        self._is_asked_for, self._listener = vs is not None, listener

    def engines(self, subject: Subject, batch: int, threads: int) -> dict[str, Engine]:
        """Engine -> the network in it, ours first.

        Raises:
            InvalidArgument: a peer that the user named is not installed, or cannot compile.
        """
        task = Task(subject.workload.model, subject.workload.inputs(batch), threads)
        self._listener.show(f"{subject.name}, batch {batch}: compiling")
        found = {OURS: ours.engine_of(ours.compiled(task), task.inputs)}
        for peer in list(self.peers):
            self._listener.show(f"{subject.name}, batch {batch}: preparing {peer}")
            try:
                found[peer] = peers.prepare(peer, task)
            except CannotServe as reason:
                self._listener.say(f"{subject.name}: {peer} is left out: {reason.message}")
            except InvalidArgument as reason:
                if self._is_asked_for:
                    raise
                self.peers.remove(peer)
                self._listener.say(f"{peer} is left out: {reason.message}; {reason.hint}")
        return found


def measure(
    machine: Machine,
    pairs: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int],
    field: Field,
    protocol: Protocol,
    listener: Listener,
    image_size: int | None = None,
) -> Iterator[list[Record]]:
    """The records of one comparison after the other: a pair, a batch, a number of threads.

    Raises:
        Error: an engine's results disagree with ours.
    """
    with tempfile.TemporaryDirectory() as temporary:
        for pair in pairs:
            subjects = []
            for name in PAIRS[pair]:
                workload = workload_of(name, Path(temporary), image_size)
                subjects.append(Subject(name, workload, *size_of(name, workload)))
            for batch in batches:
                for count in threads:
                    yield compare(machine, pair, subjects, batch, count, field, protocol, listener)


def compare(
    machine: Machine,
    pair: str,
    subjects: Sequence[Subject],
    batch: int,
    threads: int,
    field: Field,
    protocol: Protocol,
    listener: Listener,
) -> list[Record]:
    """Every network in every engine, interleaved, and checked afterwards."""
    engines = {
        (subject.name, name): engine
        for subject in subjects
        for name, engine in field.engines(subject, batch, threads).items()
    }
    peaks: list[float] = []
    what = f"{pair}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
    timings = interleave(
        {" in ".join(key): engine.run for key, engine in engines.items()},
        protocol,
        each_round=lambda: peaks.append(measure_peak(machine, _PEAK_S, threads)),
        on_round=lambda rounds, share: listener.show(f"{what}: {rounds} rounds, {100 * share:.0f} %"),
    )
    timed = {key: timings[" in ".join(key)] for key in engines}
    disagreements = {key: _disagreement(engines, key) for key in engines}
    common = records.environment(machine, {engine.name: engine.version for engine in engines.values()})
    found = []
    for (name, engine), timing in timed.items():
        subject = next(each for each in subjects if each.name == name)
        record = records.measurement(
            timing,
            flops=2 * subject.macs * batch,
            peak_flops_per_s=statistics.median(peaks),
            protocol=PROTOCOL,
            pair=pair,
            model=name,
            engine=engine,
            dtype="float32",
            batch=batch,
            threads=threads,
        )
        record["parameters"], record["macs"] = subject.parameters, subject.macs
        record["ratio"] = _ratio(timed, (name, engine), (subjects[0].name, OURS))
        record["ratio_of_engines"] = _ratio(timed, (name, engine), (name, OURS))
        record["disagreement"] = disagreements[name, engine]
        found.append({**common, **record})
    return found


def _ratio(timed: dict[tuple[str, str], Timing], key: tuple[str, str], to: tuple[str, str]) -> Record:
    return {"to": " in ".join(to), **vars(Ratio.between(timed[key], timed[to]))}


def _disagreement(engines: dict[tuple[str, str], Engine], key: tuple[str, str]) -> float:
    """The largest difference from our outputs of the same network, as a share of the largest of those.

    Raises:
        Error: it is more than rounding makes.
    """
    expected = [np.array(value) for value in engines[key[0], OURS].run()]
    found = difference([np.asarray(value) for value in engines[key].run()], expected)
    if not found <= AGREEMENT:
        raise Error(
            f"{key[0]}: {key[1]} and {OURS} disagree by {found:.2g} of the largest output",
            "one of them computes something else: `waterline check` tells whether it is this one",
        )
    return found
