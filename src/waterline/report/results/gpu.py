"""Tables of the GPU suite's records, each with what is wanted or published beside what was measured.

Ratios are the fastest peer's time over ours, of warm times: calls one after the other in a CUDA graph. A record without
times (a kernel that failed, or was wrong) is in no table; how many there are stands below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waterline.bench import records
from waterline.bench.experiments.efficiency_paper import CONVFIRST_SPEEDUP
from waterline.bench.experiments.winograd_paper import SPEED
from waterline.bench.records import Record
from waterline.bench.timing import geometric_mean
from waterline.report.results.runs import grouped, is_gpu, newest, source
from waterline.report.tables import Table, percent, short_shape

OURS = "waterline"
PEERS = {"cudnn": "cuDNN", "torch": "PyTorch", "inductor": "Inductor"}
PROTOCOLS = ("gpu networks", "gpu blocks", "gpu layers", "gpu grouped")
CONVFIRST, CONVNEXT = "convfirst_tiny", "convnext_tiny"


@dataclass(frozen=True)
class GpuMachine:
    """A GPU that records are of. facts: of its newest record, `waterline.machine.gpu.Gpu.to_dict()`."""

    title: str
    facts: Mapping[str, Any]
    files: Mapping[str, Sequence[Record]]

    @property
    def records(self) -> list[Record]:
        return newest(record for found in self.files.values() for record in found if is_suite(record))

    def describe(self) -> str:
        facts = self.facts
        peaks = ", ".join(f"{name} {value / 1e12:.0f}" for name, value in facts["measured_flops_per_s"])
        capability = ".".join(map(str, facts["capability"]))
        return (
            f"compute capability {capability}, {facts['multiprocessors']} multiprocessors, "
            f"{facts['l2_bytes'] / 2**20:g} MB L2, memory {facts['memory_bytes_per_s'] / 1e9:.0f} GB/s; "
            f"measured TFLOP/s of matrix products: {peaks}"
        )


def is_suite(record: Record) -> bool:
    return record.get("protocol", "") in PROTOCOLS


def read(folder: Path) -> list[GpuMachine]:
    """The GPUs of a folder of records, by name, the one that was measured last first. The interpreter is none: it
    has no rates."""
    found: dict[str, dict[str, list[Record]]] = {}
    facts: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for record in records.read(path):
            if is_gpu(record) and record["machine"]["measured_flops_per_s"]:
                name = record["machine"]["name"]
                found.setdefault(name, {}).setdefault(path.stem, []).append(record)
                if name not in facts or record["date"] >= facts[name][0]:
                    facts[name] = record["date"], record["machine"]
    ordered = sorted(facts, key=lambda name: facts[name][0], reverse=True)
    return [GpuMachine(name, facts[name][1], found[name]) for name in ordered]


def section(machine: GpuMachine) -> list[str]:
    """Lines of Markdown."""
    found = machine.records
    lines = ["", f"## {machine.title}", "", f"{machine.describe()[:1].upper()}{machine.describe()[1:]}."]
    versions = {name: value for record in found for name, value in record.get("versions", {}).items()}
    lines += ["", ", ".join(f"{name} {value}" for name, value in versions.items()) + "."] if versions else []
    for file, every in machine.files.items():
        of_suite = [record for record in newest(every) if is_suite(record)]
        lines += ["", source(file, of_suite) + "."] if of_suite else []
    for table in tables(found):
        lines += ["", table.to_markdown()]
    return lines


def tables(found: Sequence[Record]) -> list[Table]:
    """Those that the records allow."""
    makers: dict[str, Callable[[list[list[Record]]], list[Table]]] = {
        "gpu networks": lambda groups: [networks(groups)],
        "gpu blocks": lambda groups: [blocks(groups)],
        "gpu layers": lambda groups: [*layers(groups), *vgg(groups)],
        "gpu grouped": lambda groups: [narrow(groups)],
    }
    made: list[Table] = []
    for protocol, make in makers.items():
        of = [record for record in found if record.get("protocol") == protocol]
        groups = [group for group in grouped(of) if ours(group) is not None]
        if groups:
            tables_of = [table for table in make(groups) if table.rows]
            failed = sum("error" in record for record in of)
            wrong = sum(record.get("disagreement", 0) > 1 for record in of)
            if failed or wrong:
                tables_of[-1].notes.append(f"Not in the tables: {failed} that failed, {wrong} that were wrong.")
            made += tables_of
    return made


# ---- parts of a comparison ------------------------------------------------------------------------------------------
def ours(group: Iterable[Record], algorithm: str = "") -> Record | None:
    """Our fastest."""
    mine = [r for r in group if r.get("engine") == OURS and "warm_ms" in r and algorithm in ("", r["algorithm"])]
    return min(mine, key=lambda record: float(record["warm_ms"]), default=None)


def theirs(group: Iterable[Record], engine: str = "") -> Record | None:
    """The fastest peer, or the fastest of one."""
    peers = [r for r in group if r.get("engine") in PEERS and "warm_ms" in r and engine in ("", r["engine"])]
    return min(peers, key=lambda record: float(record["warm_ms"]), default=None)


def chosen(group: Iterable[Record]) -> Record | None:
    """Of a network the planner's own plan, where it was timed."""
    group = list(group)
    return ours(group, "plan") or ours(group)


def ratio_of(
    group: Sequence[Record], engine: str = "", which: Callable[[Sequence[Record]], Record | None] = ours
) -> float | None:
    mine, peer = which(group), theirs(group, engine)
    return None if mine is None or peer is None else float(peer["warm_ms"] / mine["warm_ms"])


def efficiency(record: Record) -> float:
    return float(record["flops"] / (record["warm_ms"] * 1e-3) / record["peak_flops_per_s"])


def bandwidth_share(record: Record) -> float:
    """Of memory's, of the cold call: what enters and leaves, once."""
    return float(record["moved_bytes"] / (record["cold_ms"] * 1e-3) / record["memory_bytes_per_s"])


def _us(record: Record | None, name: str = "warm_ms") -> str:
    return "" if record is None else f"{1e3 * record[name]:.1f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{geometric_mean(known):.2f}" if known else ""


def _batches(groups: Sequence[Sequence[Record]]) -> list[int]:
    return sorted({int(group[0]["batch"]) for group in groups})


# ---- tables ---------------------------------------------------------------------------------------------------------
def networks(groups: list[list[Record]]) -> Table:
    """A line for each network and batch: the planner's choice, and whether another plan was faster."""
    columns = ("<network", "batch", "dtype", "Waterline us", "images/s", "of peak", "<a faster plan", "PyTorch us")
    table = Table("Networks on a GPU", (*columns, "Inductor us", "PyTorch / Waterline", "Inductor / Waterline"))
    groups = sorted(groups, key=lambda group: (group[0]["batch"], group[0]["model"]))
    for group in groups:
        mine, best = chosen(group), ours(group)
        assert mine is not None, "groups without are left out"
        cells = [mine["model"], str(mine["batch"]), mine["dtype"], _us(mine)]
        cells += [f"{1e3 * mine['batch'] / mine['warm_ms']:.0f}", percent(efficiency(mine))]
        cells += ["" if best is mine or best is None else f"{best['algorithm']}, {_us(best)} us"]
        cells += [_us(theirs(group, engine)) for engine in ("torch", "inductor")]
        table.rows.append([*cells, *(_ratio(ratio_of(group, engine, chosen)) for engine in ("torch", "inductor"))])
    for batch in _batches(groups):
        of = [group for group in groups if group[0]["batch"] == batch]
        means = [_mean(ratio_of(group, engine, chosen) for group in of) for engine in ("torch", "inductor")]
        table.totals.append(["geometric mean", str(batch), *([""] * 7), *means])
    for batch in _batches(groups):
        table.notes += _speedup(groups, batch)
    return table


def _speedup(groups: Sequence[Sequence[Record]], batch: int) -> list[str]:
    """ConvFirst in our kernels against ConvNeXt in PyTorch's, as published."""
    of = {group[0]["model"]: group for group in groups if group[0]["batch"] == batch}
    if CONVFIRST not in of or CONVNEXT not in of:
        return []
    mine, peer = chosen(of[CONVFIRST]), theirs(of[CONVNEXT])
    if mine is None or peer is None:
        return []
    ratio = peer["warm_ms"] / mine["warm_ms"]
    name = PEERS[peer["engine"]]
    return [
        f"Batch {batch}: {CONVFIRST} here is {ratio:.2f} times as fast as {CONVNEXT} by {name} "
        f"(published of other networks of these kinds: about {CONVFIRST_SPEEDUP:g})."
    ]


def blocks(groups: list[list[Record]]) -> Table:
    """One kernel against our own layers and against the fastest of PyTorch's."""
    columns = ("<block", "batch", "fused us", "layer by layer us", "PyTorch us", "Inductor us")
    table = Table("Blocks on a GPU", (*columns, "layers / fused", "PyTorch's best / ours", "of peak"))
    pairs: list[float | None] = []
    ratios: list[float | None] = []
    for group in groups:
        fused, single, best = ours(group, "fused"), ours(group, "layer by layer"), ours(group)
        assert best is not None, "groups without are left out"
        pair = float(single["warm_ms"] / fused["warm_ms"]) if fused is not None and single is not None else None
        pairs.append(pair)
        ratios.append(ratio_of(group))
        cells = [best["model"], str(best["batch"]), _us(fused), _us(single)]
        cells += [_us(theirs(group, engine)) for engine in ("torch", "inductor")]
        table.rows.append([*cells, _ratio(pair), _ratio(ratios[-1]), percent(efficiency(best))])
    table.totals.append(["geometric mean", *([""] * 5), _mean(pairs), _mean(ratios), ""])
    return table


def layers(groups: list[list[Record]]) -> list[Table]:
    """Dense layers in 16 bits: the fastest of ours, and the share of the measured matrix peak."""
    of = [group for group in groups if group[0]["dtype"] != "f32"]
    columns = ("<layer", "batch", "dtype", "<algorithm", "us", "cold us", "of peak", "cuDNN us", "cuDNN, of peak")
    table = Table("Dense 3x3 layers on a GPU", (*columns, "cuDNN / Waterline", "Inductor / Waterline"))
    of.sort(key=lambda group: group[0]["batch"])
    for group in of:
        mine, peer = ours(group), theirs(group, "cudnn")
        assert mine is not None, "groups without are left out"
        cells = [short_shape(mine["model"]), str(mine["batch"]), mine["dtype"], mine["algorithm"]]
        cells += [_us(mine), _us(mine, "cold_ms"), percent(efficiency(mine)), _us(peer)]
        cells += [percent(efficiency(peer)) if peer is not None else ""]
        table.rows.append([*cells, *(_ratio(ratio_of(group, engine)) for engine in ("cudnn", "inductor"))])
    for batch in _batches(of):
        same = [group for group in of if group[0]["batch"] == batch]
        means = [_mean(ratio_of(group, engine) for group in same) for engine in ("cudnn", "inductor")]
        mine_all = [record for record in (ours(group) for group in same) if record is not None]
        shares = percent(geometric_mean([efficiency(record) for record in mine_all]))
        table.totals.append(["geometric mean", str(batch), *([""] * 4), shares, "", "", *means])
    return [table]


def vgg(groups: list[list[Record]]) -> list[Table]:
    """VGG-E's layers in exact f32, their geometric means by batch beside the published speedup of the whole network."""
    of = [group for group in groups if group[0]["dtype"] == "f32"]
    columns = ("<layer", "batch", "<algorithm", "us", "effective TFLOP/s", "of direct peak", "cuDNN us")
    table = Table("VGG-E's layers in float32 on a GPU", (*columns, "cuDNN / Waterline", "published, whole network"))
    of.sort(key=lambda group: group[0]["batch"])
    for group in of:
        mine, peer = ours(group), theirs(group, "cudnn")
        assert mine is not None, "groups without are left out"
        rate = mine["flops"] / mine["warm_ms"] / 1e9
        cells = [short_shape(mine["model"]), str(mine["batch"]), mine["algorithm"], _us(mine), f"{rate:.1f}"]
        table.rows.append([*cells, percent(efficiency(mine)), _us(peer), _ratio(ratio_of(group, "cudnn")), ""])
    for batch in _batches(of):
        same = [group for group in of if group[0]["batch"] == batch]
        mine_all = [record for record in (ours(group) for group in same) if record is not None]
        share = percent(geometric_mean([efficiency(record) for record in mine_all]))
        published = f"{SPEED[batch].speedup:.2f}" if batch in SPEED else ""
        mean = _mean(ratio_of(group, "cudnn") for group in same)
        table.totals.append(["geometric mean", str(batch), *([""] * 3), share, "", mean, published])
    return [table]


def narrow(groups: list[list[Record]]) -> Table:
    """Grouped layers and their gradients: memory's share, of cold calls."""
    columns = ("<layer", "batch", "<pass", "us", "cold us", "of bandwidth", "cuDNN us")
    table = Table("Grouped layers on a GPU", (*columns, "cuDNN / Waterline"))
    for group in groups:
        mine, peer = ours(group), theirs(group)
        assert mine is not None, "groups without are left out"
        cells = [short_shape(mine["model"]), str(mine["batch"]), mine["data"], _us(mine), _us(mine, "cold_ms")]
        table.rows.append([*cells, percent(bandwidth_share(mine)), _us(peer), _ratio(ratio_of(group))])
    for which in dict.fromkeys(group[0]["data"] for group in groups):
        same = [group for group in groups if group[0]["data"] == which]
        mine_all = [record for record in (ours(group) for group in same) if record is not None]
        share = percent(geometric_mean([bandwidth_share(record) for record in mine_all]))
        mean = _mean(ratio_of(group) for group in same)
        table.totals.append(["geometric mean", "", which, "", "", share, "", mean])
    return table


__all__ = ["GpuMachine", "read", "section", "tables"]
