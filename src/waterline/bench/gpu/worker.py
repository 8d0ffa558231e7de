"""The process that measures: `python -m waterline.bench.gpu.worker TASK LOG`, started by `suite`.

TASK is a file of JSON, LOG gets a line of JSON for everything that happens:

    {"begin": {...}}            what is about to be run, with the record that stands for it should the process end
    {"case": key, "records"}    a case is measured
    {"lost": why}               the GPU serves this process no more
    {"left": [key, ...]}        the last line: cases that there was no time for

It ends with the status LOST where the GPU serves it no more.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from waterline.bench import records
from waterline.bench.gpu.cases import OURS, Case, Variant
from waterline.bench.gpu.measuring import Begun, Measuring, ProcessLostError
from waterline.bench.gpu.parts import PARTS, Part
from waterline.bench.gpu.place import Place
from waterline.bench.gpu.suite import LOST, MISTAKE, PREPARING
from waterline.bench.records import Record
from waterline.codegen.gpu.ahead import compile_ahead
from waterline.codegen.gpu.kernel import GpuCall
from waterline.errors import Error

AHEAD = 48  # kernels that are compiled together, before any of their cases is measured
AHEAD_S = 90.0  # for them
SUITE_PROTOCOL = "gpu suite"
TWICE = 2  # an algorithm that has ended so many processes of a part is not tried again in it

Tell = Callable[[dict[str, Any]], None]


@dataclass
class Task:
    """What a worker is to do.

    Attributes:
        end_s: when, by the system's clock. batches, is_quick, parts: see the command.
        done: keys of cases that need not be measured. ended: (case's key, variant) that have ended a process, with
            `algorithms` of ours among them by their protocols.
        unprepared: keys of cases whose compilation ahead has ended a process.
    """

    device: str
    end_s: float
    parts: list[str]
    batches: list[int] = field(default_factory=list)
    is_quick: bool = False
    done: list[str] = field(default_factory=list)
    ended: list[list[str]] = field(default_factory=list)
    algorithms: list[list[str]] = field(default_factory=list)
    unprepared: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Task:
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def reason(self, case: Case, variant: Variant) -> str:
        """Why a variant is not tried."""
        if [case.key, variant.name] in self.ended:
            return "it ended the process"
        if variant.engine == OURS and self.algorithms.count([case.protocol, variant.algorithm]) >= TWICE:
            return f"left out: {variant.algorithm} has ended the process {TWICE} times"
        return ""


@dataclass
class Queue:
    """A part's cases that are still to be measured."""

    part: Part
    cases: list[Case]


class Worker:
    def __init__(self, task: Task, place: Place, tell: Tell, now: Callable[[], float] = time.time) -> None:
        self._task, self._place, self._tell, self._now = task, place, tell, now
        self._deadline = task.end_s
        self._part = ""
        self._common = records.environment(place.gpu, place.versions())
        self._measuring = Measuring(place, self._begin, self._left_s, task.reason)

    def run(self, parts: Sequence[Part] = PARTS) -> list[str]:
        """Each part within its share of the time, then what is left over of all of them. Returns what is left."""
        queues = []
        for part in parts:
            if part.name in self._task.parts:
                found = [case for case in part.cases(self._place) if case.key not in self._task.done]
                queues.append(Queue(part, found))
        for number, queue in enumerate(queues):
            later = [each.part.weight for each in queues[number:] if each.cases]
            if queue.cases:
                self._run(queue, self._now() + self._total_s() * queue.part.weight / sum(later))
        for queue in queues:
            self._run(queue, self._task.end_s)
        return [case.key for queue in queues for case in queue.cases]

    def _run(self, queue: Queue, deadline: float) -> None:
        self._deadline, self._part = min(deadline, self._task.end_s), queue.part.name
        while fitting := _fitting(queue.cases, self._left_s()):
            for case in self._prepared(fitting):
                if case.needed_s < self._left_s():
                    queue.cases.remove(case)
                    self._measure(case)

    def _measure(self, case: Case) -> None:
        print(f"{self._part}: {case.key}; {self._total_s():.0f} s left", file=sys.stderr, flush=True)
        found = self._measuring.case(case)
        stamped = [{**self._common, "date": self._date(), **record} for record in found]
        self._tell({"case": case.key, "records": stamped})

    def summary(self, left: Sequence[str]) -> Record:
        """A record of the run."""
        parts = {"parts": self._task.parts, "is_quick": self._task.is_quick}
        return {**self._common, "protocol": SUITE_PROTOCOL, "left": list(left), **parts}

    def _date(self) -> str:
        return str(records.environment(self._place.gpu, {})["date"])

    # ---- compilation --------------------------------------------------------------------------------------------
    def _prepared(self, cases: Sequence[Case]) -> list[Case]:
        """The next cases, with their kernels compiled together: as many as make enough of these, and one at least."""
        taken: list[Case] = []
        launches: list[tuple[Any, str]] = []
        for case in cases:
            if case.key in self._task.unprepared:
                if not taken:
                    return [case]
                break
            taken.append(case)
            self._begin(Begun(case.key, PREPARING, {}, AHEAD_S))
            launches += self._launches_of(case)
            if len(launches) >= AHEAD or self._place.is_interpreted:
                break
        self._begin(Begun(taken[0].key, PREPARING, {"keys": [case.key for case in taken]}, AHEAD_S + 60.0))
        begin = self._now()
        count = compile_ahead(launches, max(1.0, min(AHEAD_S, self._left_s())))
        if count:
            print(f"{self._part}: {count} kernels compiled in {self._now() - begin:.1f} s", file=sys.stderr, flush=True)
        return taken

    def _launches_of(self, case: Case) -> list[tuple[GpuCall, str]]:
        try:
            return list(case.launches())
        except Exception:
            return []  # its variants will say why

    # ---- time ---------------------------------------------------------------------------------------------------
    def _left_s(self) -> float:
        """For the part at work."""
        return self._deadline - self._now()

    def _total_s(self) -> float:
        return self._task.end_s - self._now()

    def _begin(self, begun: Begun) -> None:
        self._tell({"begin": {**asdict(begun), "record": {**self._common, **begun.record}, "time_s": self._now()}})


def _fitting(cases: Sequence[Case], left_s: float) -> list[Case]:
    return [case for case in cases if case.needed_s < left_s]


def main(argv: Sequence[str]) -> int:
    task = Task.read(Path(argv[0]))
    with open(argv[1], "a", encoding="utf-8") as log:

        def tell(line: dict[str, Any]) -> None:
            log.write(json.dumps(line, allow_nan=False) + "\n")
            log.flush()

        try:
            place = Place.found(task.device, tuple(task.batches), is_quick=task.is_quick)
        except Error as error:
            print(f"{error.message}\nhint: {error.hint}" if error.hint else error.message, file=sys.stderr)
            return MISTAKE
        worker = Worker(task, place, tell)
        gc.freeze()  # what was imported stays: between cases only theirs is searched
        try:
            left = worker.run()
        except ProcessLostError as error:
            tell({"lost": str(error)})
            os._exit(LOST)  # without the ends of libraries, which would wait for the GPU
        tell({"left": left, "records": [worker.summary(left)]})
        gc.unfreeze()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
