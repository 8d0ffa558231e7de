"""Measured layers, remembered: one file of JSON lines in the cache folder, one line a layer.

A line says what it belongs to: the machine's features and caches, the version of Waterline and of its emitters, and the
algorithms there were. Lines of other machines and versions, and damaged ones, are as good as none. Lines are only ever
appended, each in one write, so any number of processes may use the same file; the last line of a layer counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waterline.algorithms import REGISTRY, by_name
from waterline.codegen.cpu.kernel import EMISSION_VERSION
from waterline.machine import Machine
from waterline.planner import Measurements, Timing, codec
from waterline.runtime.cache import read_trusted
from waterline.runtime.locks import RenewedLock

_log = logging.getLogger(__name__)

FILE_NAME = "tuning.jsonl"


@dataclass(frozen=True)
class MeasuredLayer:
    """What was measured of a layer, with so many threads and images.

    Attributes:
        timings: for one image.
        is_complete: whether all that was worth measuring was, and often enough; else the time was over before.
    """

    key: str
    threads: int
    batch: int
    timings: tuple[Timing, ...]
    is_complete: bool = True


def fingerprint(machine: Machine, version: str) -> str:
    """What measurements depend on, and what they may choose from. Measured rates are not part of it: they change."""
    labels = [algorithm.name + "".join(f":{variant}" for variant in algorithm.variants) for algorithm in REGISTRY]
    identity = {
        "waterline": version,
        "emission": EMISSION_VERSION,
        "algorithms": labels,
        "processor": machine.name,
        "target": machine.target(),
        "caches": [machine.l1d_bytes, machine.l2_bytes, machine.l3_bytes, machine.l3_cores],
        "cores": machine.cores,
    }
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=12).hexdigest()


Label = Callable[[str, Any], str]


def _cpu_label(label: str, config: Any) -> str:
    return by_name(label.partition(":")[0]).label(config)


class MeasuredLayers:
    """The measured layers of one machine and version.

    No method raises for the state of the disk: what cannot be read is absent, what cannot be written is kept in memory
    only, and a warning is logged once.

    Args:
        folder: of the cache; None: nothing is kept beyond the process.
        identity: of `fingerprint`.
        label: of a candidate by its algorithm's name and its config; KeyError or TypeError where there is no such one.
    """

    def __init__(self, folder: Path | None, identity: str, label: Label = _cpu_label) -> None:
        self._label = label
        self.path = None if folder is None else folder / FILE_NAME
        self.identity = identity
        self._layers: dict[str, MeasuredLayer] = {}
        self._lock = RenewedLock()
        self._has_warned = False

    def load(self) -> Mapping[str, MeasuredLayer]:
        """Key -> layer, what other processes have added included."""
        found: dict[str, MeasuredLayer] = {}
        if self.path is not None:
            try:
                for line in read_trusted(self.path).splitlines():
                    layer = _parse(line, self.identity, self._label)
                    if layer is not None:
                        found[layer.key] = layer
            except FileNotFoundError:
                pass
            except OSError as error:
                self._warn("read", error)
        with self._lock:
            self._layers |= found
            return dict(self._layers)

    def measurements(self) -> Measurements:
        """As a table for the planner."""
        return Measurements({key: layer.timings for key, layer in self.load().items()})

    def add(self, layer: MeasuredLayer) -> None:
        """Remember a layer, in the place of what was known of it."""
        with self._lock:
            self._layers[layer.key] = layer
        if self.path is None:
            return
        record = {
            "machine": self.identity,
            "layer": layer.key,
            "threads": layer.threads,
            "batch": layer.batch,
            "is_complete": layer.is_complete,
            "timings": [[timing.label, codec.encode(timing.config), timing.seconds] for timing in layer.timings],
        }
        try:
            _append(self.path, json.dumps(record, allow_nan=False).encode())
        except OSError as error:
            self._warn("kept", error)

    def _warn(self, what: str, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning("measured layers cannot be %s, they will be measured again: %s", what, error)


def _append(path: Path, line: bytes) -> None:
    """One line in one write, which the system does not mix with others'. What a dead process left is ended first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(handle).st_size
        if size:
            os.lseek(handle, size - 1, os.SEEK_SET)
            if os.read(handle, 1) != b"\n":
                line = b"\n" + line
        os.write(handle, line + b"\n")
    finally:
        os.close(handle)


def _parse(line: bytes, identity: str, label: Label) -> MeasuredLayer | None:
    """The layer of a line; None where the line is of another machine or version, or is no such line."""
    try:
        record = json.loads(line)
        if record["machine"] != identity:
            return None
        timings = tuple(_timing(entry, label) for entry in record["timings"])
        threads, batch, key, is_complete = (record[name] for name in ("threads", "batch", "layer", "is_complete"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    is_named = isinstance(key, str) and isinstance(is_complete, bool)
    is_whole = is_named and all(type(n) is int and n > 0 for n in (threads, batch)) and timings
    return MeasuredLayer(key, threads, batch, timings, is_complete) if is_whole else None


def _timing(entry: Any, known: Label) -> Timing:
    """Raises ValueError, TypeError or KeyError for what is no timing."""
    label, config, seconds = entry
    timing = Timing(label, codec.decode(config), seconds)
    if known(label, timing.config) != label:
        raise ValueError(f"{config} is no config of {label}")
    if seconds is not None and (type(seconds) is not float or not 0 < seconds < math.inf):
        raise ValueError(f"{seconds!r} is not a time")
    return timing
