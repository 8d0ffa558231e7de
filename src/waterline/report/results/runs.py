"""Records of many runs: those of each machine, and of everything that was measured again the newest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waterline.bench import records
from waterline.bench.records import Record
from waterline.errors import InvalidArgument

Key = tuple[Any, ...]

# What makes a machine another one. Rates are measured anew every day, and names are not always told.
_IDENTITY = ("arch", "features", "l1d_bytes", "l2_bytes", "l3_bytes", "cores")
# What makes a comparison another one; its records have one date. Engines, algorithms and variants are inside it.
_LABELS = ("protocol", "network", "model", "layer", "dtype", "batch", "threads", "data", "learning_rate", "seed")


@dataclass(frozen=True)
class Machine:
    """A machine that records are of.

    Attributes:
        title: unique among the machines. facts: of its newest record: `waterline.machine.Machine.to_dict()`.
        files: name of the file, without its suffix -> its records of this machine, in order.
    """

    title: str
    facts: Mapping[str, Any]
    files: Mapping[str, Sequence[Record]]

    def of(self, file: str, protocol: str | None = None) -> list[Record]:
        """The newest records of a file and protocol (None: `waterline bench`, which names none)."""
        return newest(record for record in self.files.get(file, ()) if record.get("protocol") == protocol)

    @property
    def experiments(self) -> dict[str, tuple[str, list[Record]]]:
        """Experiment -> the file of its records, and the newest of them."""
        found: dict[str, tuple[str, list[Record]]] = {}
        for file, all_records in self.files.items():
            for record in newest(all_records):
                kind, _, name = record.get("protocol", "").partition(":")[0].partition(" ")
                if kind == "experiment":
                    found.setdefault(name, (file, []))[1].append(record)
        return found

    @property
    def summary(self) -> str:
        """What matters most of it."""
        return f"{_vectors(self.facts['features'])}, {self.facts['cores']} cores"

    def describe(self) -> str:
        """What matters of it, with the rates measured at the newest record."""
        facts, rates = self.facts, self.facts["bandwidth"]
        l3 = f", {facts['l3_bytes'] >> 20} MB L3 ({_giga(rates['l3'])} GB/s a core)" if facts["l3_bytes"] else ""
        return (
            f"{self.summary}, {facts['l1d_bytes'] >> 10} KB L1, "
            f"{facts['l2_bytes'] / 2**20:g} MB L2 ({_giga(rates['l2'])} GB/s){l3}, "
            f"memory {_giga(rates['dram'])} GB/s a core; {_giga(facts['peak_flops_per_s'])} GFLOP/s a core"
        )


def read(folder: Path) -> list[Machine]:
    """The machines of a folder of records, the one that was measured last first.

    Raises:
        InvalidArgument: a file is not of records, or one is of a machine that no other describes.
    """
    found: dict[Key, dict[str, list[Record]]] = {}
    facts: dict[Key, tuple[str, Mapping[str, Any]]] = {}
    named: list[tuple[str, Record]] = []
    for path in sorted(folder.glob("*.jsonl")):
        for record in records.read(path):
            if is_gpu(record):
                continue  # `waterline.report.results.gpu` has them
            if isinstance(record["machine"], str):
                named.append((path.stem, record))
                continue
            key = tuple(str(record["machine"].get(name)) for name in _IDENTITY)
            found.setdefault(key, {}).setdefault(path.stem, []).append(record)
            if key not in facts or record["date"] >= facts[key][0]:
                facts[key] = record["date"], record["machine"]
    for file, record in named:  # by hand, or of early versions
        keys = [key for key, (_, machine) in facts.items() if machine["name"] == record["machine"]]
        if len(keys) != 1:
            raise InvalidArgument(
                f"a record of {file}.jsonl is of {record['machine']!r}, which {len(keys)} machines are called",
                "give the record its machine's description",
            )
        found[keys[0]].setdefault(file, []).append(record)
    ordered = sorted(facts, key=lambda key: facts[key][0], reverse=True)
    titles = _titles([facts[key][1] for key in ordered])
    return [Machine(title, facts[key][1], found[key]) for title, key in zip(titles, ordered, strict=True)]


def is_gpu(record: Record) -> bool:
    """Whether it is of a GPU, whose description has other fields."""
    return isinstance(record["machine"], dict) and "multiprocessors" in record["machine"]


def labels(record: Record) -> Key:
    """What the records of one comparison have in common."""
    return tuple(record.get(name) for name in _LABELS)


def newest(found: Iterable[Record]) -> list[Record]:
    """Of comparisons that were made again only the last one, where the first one was."""
    comparisons: dict[Key, dict[str, list[Record]]] = {}
    for record in found:
        comparisons.setdefault(labels(record), {}).setdefault(record["date"], []).append(record)
    return [record for dates in comparisons.values() for record in dates[max(dates)]]


def grouped(found: Iterable[Record]) -> list[list[Record]]:
    """The comparisons, each with its records, ours first."""
    comparisons: dict[Key, list[Record]] = {}
    for record in found:
        comparisons.setdefault((*labels(record), record["date"]), []).append(record)
    return list(comparisons.values())


def source(file: str, found: Sequence[Record]) -> str:
    """Where records come from, in words: the file, the commits and their days."""
    commits: dict[tuple[str, str], int] = {}
    for record in found:
        key = (record["commit"] or "of an installed package", record["date"][:10])
        commits[key] = commits.get(key, 0) + 1
    several = len(commits) > 1
    parts = [
        f"{commit} ({day}{f', {count} of {len(found)} records' if several else ''})"
        for (commit, day), count in sorted(commits.items(), key=lambda item: item[0][1], reverse=True)
    ]
    return f"`{file}.jsonl`, commit{'s' if several else ''} {', '.join(parts)}"


def anchor(heading: str) -> str:
    """Of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


def _titles(machines: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [_short(machine["name"]) for machine in machines]
    found: list[str] = []
    for name, machine in zip(names, machines, strict=True):
        title = name
        if names.count(name) > 1:
            title = f"{name} with {machine['cores']} cores, {machine['l2_bytes'] / 2**20:g} MB L2"
        number = 1 + sum(each == title or each.startswith(f"{title}, number ") for each in found)
        found.append(title if number == 1 else f"{title}, number {number}")
    return found


def _short(name: str) -> str:
    """Without the makers' names and marks: "Xeon" of "Intel(R) Xeon(R) Processor"."""
    words = re.sub(r"\((R|TM|tm)\)|\b(Intel|AMD|Processor|CPU)\b|@.*", " ", name).split()
    return " ".join(words) or name


def _vectors(features: Sequence[str]) -> str:
    for feature, name in (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX"), ("neon", "NEON")):
        if feature in features:
            return name
    return "SSE2" if "sse2" in features else "generic vectors"


def _giga(value: float) -> str:
    return f"{value / 1e9:.0f}"
