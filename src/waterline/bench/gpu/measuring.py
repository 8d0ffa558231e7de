"""One case: every variant is built, run and checked; those that are right take turns; each gives a record."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from waterline.bench import records
from waterline.bench.gpu import timing
from waterline.bench.gpu.cases import Call, Case, Times, Variant
from waterline.bench.gpu.place import Place
from waterline.bench.records import Record

MESSAGE_LENGTH = 400
WORST = 1e30  # in a record, for what is no number
ROUNDS_LIMIT_S = 120.0  # of all rounds of a case


class ProcessLostError(RuntimeError):
    """The GPU serves this process no more: a kernel ended badly. Another process can go on."""


@dataclass(frozen=True)
class Begun:
    """What is about to happen, for whoever has to say what ended the process.

    Attributes:
        record: to be completed by what went wrong. limit_s: it hangs if it takes longer.
    """

    key: str
    variant: str
    record: Record
    limit_s: float


@dataclass(frozen=True)
class Measuring:
    """How cases are measured.

    Attributes:
        tell: is told before anything that may end the process.
        left_s: seconds that are left for the case's part.
        refused: why a variant is not tried: it has ended a process. "" for all others.
    """

    place: Place
    tell: Callable[[Begun], None]
    left_s: Callable[[], float]
    refused: Callable[[Case, Variant], str]

    def case(self, case: Case) -> list[Record]:
        """Its records. One whose `disagreement` is above 1 was wrong; one with an `error` failed, and one with
        `left_out` was not tried for want of time.

        Raises:
            ProcessLostError: nothing more can run here.
        """
        try:
            with torch.inference_mode():
                return self._records(case)
        except Exception as error:
            self._survive(error)
            return [{**case.names, "error": message(error)}]
        finally:
            case.release()
            gc.collect()
            if not self.place.is_interpreted:
                torch.cuda.empty_cache()

    def _records(self, case: Case) -> list[Record]:
        found: list[Record] = []
        ready: dict[str, tuple[Call, Record]] = {}
        for variant in case.variants():
            record = self._record(case, variant.labels)
            found.append(record)
            if variant.needed_s > self.left_s():
                record["left_out"] = f"it may take {variant.needed_s:.0f} s"
                continue
            if reason := self.refused(case, variant):
                record["error"] = reason
                continue
            self.tell(Begun(case.key, variant.name, record, variant.limit_s))
            with self._caught(record):
                call = variant.build()
                record.update(variant.details())
                call()
                self.place.synchronise()
                if variant.check is not None:
                    record["disagreement"] = min(variant.check(), WORST)
                    if is_wrong(record):
                        continue
                ready[variant.name] = (call, record)
        if self.place.can_time:
            self._time(case, ready)
        return found

    def _time(self, case: Case, ready: dict[str, tuple[Call, Record]]) -> None:
        # What a collection lets go may be the GPU's, which a recording does not allow and a time should not hold.
        gc.disable()
        try:
            times = self._times(case, ready)
        finally:
            gc.enable()
        for name, each in times.items():
            ready[name][1].update(each.record(case, records.rounded))
            ready[name][1]["cold_bytes_written"] = timing.FLUSHED * self.place.gpu.l2_bytes

    def _times(self, case: Case, ready: dict[str, tuple[Call, Record]]) -> dict[str, Times]:
        turns: dict[str, timing.Turns] = {}
        for name, (call, record) in ready.items():
            self.tell(Begun(case.key, name, record, ROUNDS_LIMIT_S))
            with self._caught(record):
                turns[name] = timing.Turns(call, self.place)
        self.tell(Begun(case.key, "", self._record(case, {}), ROUNDS_LIMIT_S))
        return timing.timed(turns, self.place, zlib.crc32(case.key.encode()))

    @contextmanager
    def _caught(self, record: Record) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            record["error"] = message(error)
            self._survive(error)

    def _survive(self, error: Exception) -> None:
        """Raises ProcessLostError if the GPU does not answer any more."""
        if isinstance(error, ProcessLostError):
            raise error
        try:
            self.place.synchronise()
        except Exception as worse:
            raise ProcessLostError(message(error)) from worse

    def _record(self, case: Case, labels: Record) -> Record:
        return {**case.labels(self.place), **labels}


def message(error: BaseException) -> str:
    """In one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:MESSAGE_LENGTH]


def is_wrong(record: Record) -> bool:
    value: Any = record.get("disagreement")
    return value is not None and not value <= 1


__all__ = ["Begun", "Measuring", "ProcessLostError", "is_wrong", "message"]
