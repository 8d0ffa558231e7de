"""Saved profiles (`waterline profile MODEL --json`), read and matched layer by layer."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waterline.analysis import Analysis
from waterline.errors import InvalidArgument

HINT = "write one: waterline profile MODEL --json > FILE"


@dataclass(frozen=True)
class ProfileRow:
    """A layer of a profile."""

    name: str
    shape: str
    algorithm: str
    time_ns: float


@dataclass(frozen=True)
class Profile:
    """What is compared of a profile.

    Attributes:
        label: what the page calls it: the file's name, or "this run". time_ns: of one inference.
    """

    label: str
    network: str
    machine: str
    threads: int
    time_ns: float
    rows: tuple[ProfileRow, ...]


@dataclass(frozen=True)
class Match:
    """One layer, with its row in each profile: None where a profile has no such layer."""

    name: str
    shape: str
    rows: tuple[ProfileRow | None, ...]

    @property
    def is_everywhere(self) -> bool:
        return None not in self.rows

    def ratio(self, position: int) -> float | None:
        """The time in that profile divided by the first one's; None where one of them is missing or zero."""
        first, other = self.rows[0], self.rows[position]
        return other.time_ns / first.time_ns if first and other and first.time_ns else None


def read(path: Path, label: str | None = None) -> Profile:
    """A profile from its file.

    Raises:
        InvalidArgument: the file is missing or holds something else; the message says what.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidArgument(f"the profile {str(path)!r} cannot be read: {reason}", HINT) from error
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{str(path)!r} is no profile: not JSON ({error})", HINT) from error
    try:
        return of_dict(plain, label or path.stem)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InvalidArgument(f"{str(path)!r} is no profile: {what}", HINT) from error


def of_dict(plain: Mapping[str, Any], label: str) -> Profile:
    """From `Report.to_dict()`.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    if not isinstance(plain, Mapping):
        raise TypeError(f"a profile is an object, this is a {type(plain).__name__}")
    rows = tuple(
        ProfileRow(str(row["name"]), str(row["shape"]), str(row["algorithm"]), _time_ns(row["time_ns"]))
        for row in plain["rows"]
    )
    if not rows:
        raise ValueError("it has no layers")
    return Profile(
        label,
        str(plain["network"]),
        str(plain["machine"]),
        int(plain["threads"]),
        _time_ns(plain["totals"]["time_ns"]),
        rows,
    )


def of_analysis(analysis: Analysis, label: str) -> Profile:
    """The times of an analysis, measured or predicted."""
    rows = tuple(ProfileRow(layer.name, layer.shape, layer.algorithm, layer.time_ns) for layer in analysis.layers)
    return Profile(label, analysis.network, analysis.machine, analysis.threads, analysis.time_ns, rows)


def match(profiles: Sequence[Profile]) -> list[Match]:
    """Layers by name and shape, in the first profile's order; what only others have follows the layer before it.

    Layers of the same name and shape are told apart by their order.
    """
    keyed = [_keyed(profile) for profile in profiles]
    order: list[tuple[str, str, int]] = list(keyed[0])
    for rows in keyed[1:]:
        known = set(order)
        place = 0
        for key in rows:
            if key in known:
                place = order.index(key) + 1
            else:
                order.insert(place, key)
                place += 1
    return [Match(key[0], key[1], tuple(rows.get(key) for rows in keyed)) for key in order]


def _keyed(profile: Profile) -> dict[tuple[str, str, int], ProfileRow]:
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for row in profile.rows:
        key = (row.name, row.shape)
        found[(*key, seen[key])] = row
        seen[key] += 1
    return found


def _time_ns(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no time")
    return float(value)
