"""Records of measurements: JSON objects that describe themselves, one a line, appended and never changed."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from waterline.bench.timing import Timing
from waterline.errors import InvalidArgument
from waterline.machine import Machine

SCHEMA = 1

Record = dict[str, Any]


def environment(machine: Machine, versions: Mapping[str, str]) -> Record:
    """What was the same for every record of a run: software, machine, date.

    Args:
        machine: calibrated: its rates are those of the day.
        versions: engine -> version.
    """
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "waterline": metadata.version("waterline"),
        "commit": _commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": machine.to_dict(),
        "versions": dict(versions),
    }


def measurement(timing: Timing, *, flops: int, peak_flops_per_s: float, **labels: Any) -> Record:
    """What was measured of one engine.

    Args:
        flops: of the direct algorithm, in one call.
        peak_flops_per_s: of the threads used, measured in the same run.
        labels: model, engine, dtype, batch, threads, and what else tells this measurement from others.
    """
    return {
        **labels,
        "median_ms": timing.median_ns / 1e6,
        "p10_ms": timing.p10_ns / 1e6,
        "p90_ms": timing.p90_ns / 1e6,
        "flops": flops,
        "effective_flops_per_s": flops / (timing.median_ns * 1e-9),
        "peak_flops_per_s": peak_flops_per_s,
        "computational_efficiency": flops / (timing.median_ns * 1e-9) / peak_flops_per_s,
        "rounds": len(timing.rounds),
        "samples": [round(sample / 1e6, 6) for sample in timing.samples_ns],
    }


def append(path: Path, records: Iterable[Record]) -> None:
    """Add lines to a file. A last line that was cut off by an interruption is ended first."""
    text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
    with open(path, "a+b") as file:
        if file.seek(0, 2):
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                text = "\n" + text
        file.write(text.encode())


def read(path: Path) -> list[Record]:
    """The records of a file, in order.

    Raises:
        InvalidArgument: a line is no record.
    """
    records: list[Record] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InvalidArgument(f"{path}:{number} is not JSON: {error}", "every line is one record") from error
        if not isinstance(record, dict):
            raise InvalidArgument(f"{path}:{number} is not a record", "every line is one JSON object")
        records.append(record)
    return records


@cache
def _commit() -> str | None:
    """Of the working tree that this file belongs to, with a `+` if it was changed; None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        text = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", __file__],
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return text if tracked.returncode == 0 else None
