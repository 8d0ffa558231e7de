"""The command's side of the suite: starts the process that measures, and starts it again where a kernel has ended it.

A kernel that reads where it may not, or that never ends, takes its process with it. So measurements are another
process's, which says what it is about to do before it does it; what was at work when it ended becomes a record with an
`error`, and the next process goes on without it. Neither PyTorch nor Triton is imported here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from waterline.bench.records import Record
from waterline.errors import Error, InvalidArgument

SUITE = "gpu"
PART_NAMES = ("networks", "layers", "grouped", "blocks", "winograd")
SECONDS = 440.0
GRACE_S = 25.0  # after the end, for what had begun
LINGER_S = 5.0  # for libraries, after the last line
LEAST_S = 15.0  # that a new process is worth
STEP_S = 0.2
START_LIMIT_S = 120.0  # for imports and the rates of the GPU
# Statuses of the process: a mistake in what was asked for; the GPU serves it no more.
MISTAKE, LOST = 2, 70
PREPARING = "preparing"  # in the place of a variant: kernels are compiled ahead

Keep = Callable[[Sequence[Record]], None]


@dataclass
class Report:
    """What has come of a run.

    Attributes:
        left: what there was no time for. restarts: of the process that measures.
    """

    records: list[Record] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    restarts: int = 0

    @property
    def failures(self) -> list[Record]:
        return [record for record in self.records if "error" in record]

    @property
    def wrong(self) -> list[Record]:
        return [record for record in self.records if record.get("disagreement", 0) > 1]


@dataclass(frozen=True)
class Wanted:
    """What the command was asked for."""

    device: str = "cuda"
    seconds: float = SECONDS
    parts: tuple[str, ...] = PART_NAMES
    batches: tuple[int, ...] = ()
    is_quick: bool = False


WORKER = (sys.executable, "-m", "waterline.bench.gpu.worker")


def run(wanted: Wanted, keep: Keep, worker: Sequence[str] = WORKER) -> Report:
    """Everything that there is time for.

    Args:
        keep: is given records as they come. worker: the command of the process that measures.

    Raises:
        InvalidArgument: there is no such part. Error: the process cannot measure at all.
    """
    for name in wanted.parts:
        if name not in PART_NAMES:
            raise InvalidArgument(f"there is no part {name!r}", f"parts are {', '.join(PART_NAMES)}")
    task: dict[str, Any] = {
        "device": wanted.device,
        "end_s": time.time() + wanted.seconds,
        "parts": list(wanted.parts),
        "batches": list(wanted.batches),
        "is_quick": wanted.is_quick,
        "done": [],
        "ended": [],
        "algorithms": [],
        "unprepared": [],
    }
    report = Report()
    with tempfile.TemporaryDirectory(prefix="waterline-gpu-") as folder:
        while True:
            follower = Follower(task, report, keep)
            status = follower.follow(worker, Path(folder))
            if follower.has_ended:
                return report
            if status == MISTAKE:
                raise InvalidArgument("the GPU suite cannot run, for the reason above")
            if not follower.has_begun and not report.records:
                raise Error(f"the process that measures ended with status {status} before it had begun")
            why = follower.hung or follower.lost or f"the process ended with status {status}"
            if not follower.blame(why):
                report.left.append(f"everything behind it: {why}, with nothing at work")
                return report
            if task["end_s"] - time.time() < LEAST_S:
                report.left.append("everything behind it, for want of time after a process that ended")
                return report
            report.restarts += 1


class Follower:
    """Follows one process by what it writes."""

    def __init__(self, task: dict[str, Any], report: Report, keep: Keep) -> None:
        self._task, self._report, self._keep = task, report, keep
        self._begun: dict[str, Any] | None = None
        self.has_begun = self.has_ended = False
        self._last_s = time.time()
        self.hung: str | None = None
        self.lost = ""

    def follow(self, worker: Sequence[str], folder: Path) -> int:
        """Until the process ends, or hangs and is stopped. Returns its status."""
        number = self._report.restarts
        log, task = folder / f"log-{number}.jsonl", folder / f"task-{number}.json"
        task.write_text(json.dumps(self._task), encoding="utf-8")
        log.touch()
        self._last_s = time.time()
        with open(log, encoding="utf-8") as lines, subprocess.Popen([*worker, str(task), str(log)]) as process:
            try:
                rest = ""
                while True:
                    is_over = process.poll() is not None
                    rest = self._read(rest + lines.read())
                    if is_over:
                        return int(process.returncode)
                    self.hung = self._hangs()
                    is_lingering = self.has_ended and time.time() - self._last_s > LINGER_S
                    if self.hung is not None or is_lingering:
                        process.kill()
                        process.wait()
                        return int(process.returncode)
                    time.sleep(STEP_S)
            finally:
                if process.poll() is None:
                    process.kill()

    def _hangs(self) -> str | None:
        now = time.time()
        if now > self._task["end_s"] + GRACE_S:
            return f"stopped {GRACE_S:.0f} s after the end of the time"
        if self._begun is None:
            return None if now - self._last_s < START_LIMIT_S else f"nothing happened in {START_LIMIT_S:.0f} s"
        limit_s = self._begun["limit_s"]
        return None if now - self._begun["time_s"] < limit_s else f"it took more than {limit_s:.0f} s"

    def _read(self, text: str) -> str:
        """Takes whole lines; returns the rest."""
        *lines, rest = text.split("\n")
        for line in lines:
            self._take(json.loads(line))
        return rest

    def _take(self, line: dict[str, Any]) -> None:
        self.has_begun, self._last_s = True, time.time()
        if "begin" in line:
            self._begun = line["begin"]
        elif "case" in line:
            self._begun = None
            self._task["done"].append(line["case"])
            self._add(line["records"])
        elif "lost" in line:
            self.lost = line["lost"]
        else:
            self._report.left += line["left"]
            self._add(line["records"])
            self.has_ended = True

    def _add(self, found: Sequence[Record]) -> None:
        self._report.records += found
        self._keep(found)

    def blame(self, why: str) -> bool:
        """Notes what was at work when the process ended, so that the next one goes on without it. False if nothing
        was."""
        begun = self._begun
        if begun is None:
            return False
        record, key = begun["record"], begun["key"]
        print(f"{key}, {begun['variant'] or 'timing'}: {why}", file=sys.stderr, flush=True)
        if begun["variant"] == PREPARING:
            self._task["unprepared"] += record.get("keys", [key])
            return True
        self._add([{**record, "error": why}])
        if not begun["variant"]:
            self._task["done"].append(key)
            return True
        self._task["ended"].append([key, begun["variant"]])
        if record["engine"] == "waterline":
            self._task["algorithms"].append([record["protocol"], record["algorithm"]])
        return True


__all__ = ["LOST", "MISTAKE", "PART_NAMES", "PREPARING", "SECONDS", "SUITE", "Report", "Wanted", "run"]
