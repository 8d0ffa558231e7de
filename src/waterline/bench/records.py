"""Records of measurements: JSON objects that describe themselves, one a line, appended and never changed.

What is the same for many records of a run (software, machine) is a line of its own in a file, before the first of them:
`{"run": id, "environment": {...}}`. Its records have `"run": id` instead. `read` puts both together again, so nobody
else knows of it. The id is a digest of the environment; two runs in the same one have the same id.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from waterline.bench.timing import Timing
from waterline.errors import InvalidArgument
from waterline.machine import Rates
from waterline.machine.gpu import Gpu

SCHEMA = 1

Record = dict[str, Any]

# Of what `environment` gives: what a file has once, if a record has all of it. The date differs from record to record.
_SHARED = ("waterline", "commit", "python", "system", "machine", "versions")
MOST_SAMPLES = 300  # of microsecond calls there are tens of thousands
_SAMPLE_DIGITS = 4  # a sample's noise is in the third or before


def environment(machine: Rates | Gpu, versions: Mapping[str, str]) -> Record:
    """What was the same for every record of a run: software, machine, date.

    Args:
        machine: calibrated: its rates are those of the day.
        versions: engine -> version.
    """
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "waterline": metadata.version("waterline"),
        "commit": commit(),
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
        "sample_count": len(timing.samples_ns),
        "samples": [rounded(sample / 1e6) for sample in thinned(timing.samples_ns)],
    }


def thinned(samples: Sequence[float]) -> list[float]:
    """At most MOST_SAMPLES of them, evenly spaced: medians and quantiles of a record are those of all."""
    count = min(len(samples), MOST_SAMPLES)
    return [samples[i * len(samples) // count] for i in range(count)]


def rounded(sample: float) -> float:
    """As a record keeps it: four significant digits."""
    return float(f"{sample:.{_SAMPLE_DIGITS}g}")


def append(path: Path, records: Iterable[Record]) -> None:
    """Add lines to a file, in one write. A last line that was cut off by an interruption is ended first."""
    before = path.read_bytes() if path.exists() else b""
    known = _runs_in(before)
    lines = []
    for record in records:
        if all(name in record for name in _SHARED):
            environment = {name: record[name] for name in _SHARED}
            run = hashlib.sha256(_line(environment)).hexdigest()[:12]
            if run not in known:
                known.add(run)
                lines.append(_line({"run": run, "environment": environment}))
            record = {"run": run, **{name: value for name, value in record.items() if name not in _SHARED}}
        lines.append(_line(record))
    with open(path, "ab") as file:
        file.write((b"" if before[-1:] in (b"", b"\n") else b"\n") + b"".join(lines))


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _runs_in(text: bytes) -> set[str]:
    """The ids of the runs that a file describes."""
    found = set()
    for line in text.splitlines():
        if line.startswith(b'{"run":') and b'"environment":' in line[:64]:
            with suppress(ValueError):  # a line that was cut off describes nothing
                found.add(json.loads(line)["run"])
    return found


def read(path: Path) -> list[Record]:
    """The records of a file, in order.

    Raises:
        InvalidArgument: a line is no record, or of a run that no line before it describes.
    """
    records: list[Record] = []
    environments: dict[str, Record] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InvalidArgument(f"{path}:{number} is not JSON: {error}", "every line is one record") from error
        if not isinstance(record, dict):
            raise InvalidArgument(f"{path}:{number} is not a record", "every line is one JSON object")
        run = record.pop("run", None)
        if "environment" in record:
            environments[run] = record["environment"]
        elif run is None:
            records.append(record)
        elif run in environments:
            records.append({**environments[run], **record})
        else:
            raise InvalidArgument(
                f"{path}:{number} is of the run {run!r}, which no line before it describes",
                "keep the line of the run when you take records out of a file",
            )
    return records


@cache
def commit() -> str | None:
    """Of the working tree that this file belongs to; None for an installed package.

    A `+` behind it says that the package was changed. Other changes do not count: measuring appends to records.
    """
    package = Path(__file__).resolve().parent.parent
    if _git(package, "ls-files", "--error-unmatch", __file__) is None:
        return None
    name = _git(package, "describe", "--always", "--abbrev=12", "--exclude=*")
    is_clean = _git(package, "diff", "--quiet", "HEAD", "--", str(package)) is not None
    return name if name is None or is_clean else f"{name}+"


def _git(folder: Path, *words: str) -> str | None:
    """What git prints; None if it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
