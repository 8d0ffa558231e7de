"""Which layers are furthest above their bound, and how near predictions from the plan come: of efficiency records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from waterline.bench.records import Record
from waterline.errors import InvalidArgument
from waterline.report.results.runs import Machine, source
from waterline.report.tables import Table, percent, short_shape

EXPERIMENT = "efficiency"
LAYERS_SHOWN = 5  # of each network
NEAR = 0.25  # a predicted time that is so far from the measured one is still called right


@dataclass(frozen=True)
class Kind:
    """Layers of one network that are alike; times are sums, in nanoseconds."""

    algorithm: str
    shape: str
    count: int
    time_ns: float
    bound_ns: float
    arithmetic_ns: float
    memory_ns: float

    @property
    def overhead_ns(self) -> float:
        return self.time_ns - self.arithmetic_ns - self.memory_ns


def gaps_block(machines: Sequence[Machine]) -> str:
    """Both tables of the machine that was measured last, with what they rest on.

    Raises:
        InvalidArgument: there are no such records.
    """
    machine = next((each for each in machines if EXPERIMENT in each.experiments), None)
    if machine is None:
        raise InvalidArgument("there are no records of efficiency", "`waterline experiment efficiency` makes them")
    file, found = machine.experiments[EXPERIMENT]
    tables = (predictions(found), *(worst(found, threads) for threads in dict.fromkeys(r["threads"] for r in found)))
    return "\n\n".join([f"{machine.title}; {source(file, found)}.", *(table.to_markdown() for table in tables)])


def worst(found: Iterable[Record], threads: int) -> Table:
    """Of each network the kinds of layers with the most overhead."""
    columns = (
        "<network",
        "<layer",
        "<algorithm",
        "layers",
        "time us",
        "of network",
        "bound us",
        "arithmetic",
        "memory",
    )
    table = Table(f"Most overhead, {threads} thread{'s' if threads > 1 else ''}", (*columns, "overhead"))
    for record in found:
        if record["threads"] != threads:
            continue
        whole = sum(record["layers"]["time_ns"])
        for kind in sorted(kinds(record), key=lambda kind: -kind.overhead_ns)[:LAYERS_SHOWN]:
            parts = (kind.arithmetic_ns, kind.memory_ns, kind.overhead_ns)
            table.rows.append(
                (
                    record["model"],
                    short_shape(kind.shape),
                    kind.algorithm,
                    str(kind.count),
                    f"{kind.time_ns / 1e3:.0f}",
                    percent(kind.time_ns / whole),
                    f"{kind.bound_ns / 1e3:.0f}",
                    *(percent(part / kind.time_ns) for part in parts),
                )
            )
    return table


def kinds(record: Record) -> list[Kind]:
    """The layers of a record, those of the same shape and algorithm together."""
    layers = record["layers"]
    names = ("time_ns", "bound_ns", "arithmetic_ns", "memory_ns")
    sums: dict[tuple[str, str], list[float]] = {}
    for i, key in enumerate(zip(layers["algorithm"], layers["shape"], strict=True)):
        total = sums.setdefault(key, [0.0] * (1 + len(names)))
        total[0] += 1
        for j, name in enumerate(names, 1):
            total[j] += layers[name][i]
    return [Kind(*key, int(total[0]), *total[1:]) for key, total in sums.items()]


def predictions(found: Sequence[Record]) -> Table:
    """The share of each network's time in layers whose predicted time is near the measured one."""
    columns = (
        "<network",
        "threads",
        "layers ms",
        "predicted ms",
        f"time predicted within {NEAR:.0%}".replace("%", " %"),
    )
    table = Table("Predicted from the plan", columns)
    for record in found:
        layers = record["layers"]
        pairs = list(zip(layers["time_ns"], layers["predicted_ns"], strict=True))
        cells = [record["model"], str(record["threads"])]
        cells += [f"{sum(each) / 1e6:.2f}" for each in zip(*pairs, strict=True)]
        table.rows.append((*cells, percent(near(pairs))))
    everything = [pair for r in found for pair in zip(r["layers"]["time_ns"], r["layers"]["predicted_ns"], strict=True)]
    table.totals.append(("all", "", "", "", percent(near(everything))))
    return table


def near(pairs: Sequence[tuple[float, float]]) -> float:
    """Of pairs (measured, predicted), weighed by the first."""
    good = sum(time for time, predicted in pairs if abs(predicted - time) <= NEAR * time)
    return good / sum(time for time, _ in pairs)
