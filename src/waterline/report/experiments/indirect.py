"""Tables of the indirect convolution algorithm after Dukhan (2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from waterline.bench.experiments import indirect_memory, indirect_time
from waterline.bench.experiments.indirect_paper import BEST_RATIO, CLASSES, POINTWISE
from waterline.bench.experiments.indirect_time import INDIRECT, OURS, OWN_TILE, SAME_TILE
from waterline.bench.records import Record
from waterline.bench.timing import geometric_mean
from waterline.report.tables import Table, percent, short_shape

Group = Mapping[str, Record]  # variant -> its record, of one layer


def times(records: Sequence[Record]) -> list[Table]:
    """For each number of threads and state of the data: the layers that need im2col, those that do not, and classes."""
    tables = []
    conditions = dict.fromkeys((record["threads"], record["data"]) for record in records)
    for threads, data in conditions:
        groups: dict[str, dict[str, Record]] = {}
        for record in records:
            if (record["threads"], record["data"]) == (threads, data):
                groups.setdefault(record["model"], {})[record["variant"]] = record
        where = f"{threads} thread{'s' if threads > 1 else ''}, {data} data"
        needing = [group for group in groups.values() if group[OURS]["class"] != POINTWISE]
        pointwise = [group for group in groups.values() if group[OURS]["class"] == POINTWISE]
        if needing:
            tables.append(_against_im2col(needing, where))
        if pointwise:
            tables.append(_pointwise(pointwise, where))
        tables.append(_by_class([*needing, *pointwise], where))
    return tables


def _against_im2col(groups: Sequence[Group], where: str) -> Table:
    columns = ("<layer", "<shape", "<class", "tile", "indirect us", "of peak", "im2col us", "copying", "ratio")
    table = Table(f"indirect against im2col and GEMM, {where}", (*columns, "p10-p90", "its own tile us", "ratio"))
    for group in groups:
        ours, same = group[OURS], group[SAME_TILE]
        cells = [*_layer(ours), ours["class"], _tile(ours), _microseconds(ours)]
        cells += [percent(ours["computational_efficiency"]), _microseconds(same)]
        cells += [percent(_copying(same)), *_ratio(same)]
        table.rows.append([*cells, *_own(group)])
    table.notes.append(
        "Ratios above 1: im2col took so many times as long. Same tile: the register tile and the order of blocks are "
        "those of indirect; its own: what the planner takes for im2col, where that differs. Copying: of im2col's time."
    )
    return table


def _pointwise(groups: Sequence[Group], where: str) -> Table:
    columns = ("<layer", "<shape", "tile", "direct_gemm us", "of peak", "GEMM us", "ratio", "p10-p90")
    table = Table(f"1x1 filters of stride 1, {where}", (*columns, "indirect us", "ratio", "p10-p90"))
    for group in groups:
        ours, gemm, indirect = group[OURS], group[SAME_TILE], group[INDIRECT]
        cells = [*_layer(ours), _tile(ours), _microseconds(ours), percent(ours["computational_efficiency"])]
        table.rows.append([*cells, _microseconds(gemm), *_ratio(gemm), _microseconds(indirect), *_ratio(indirect)])
    table.notes.append(
        "GEMM is the baseline without im2col, which these layers do not need. It is the same native code as "
        "direct_gemm, so its ratio is what two measurements of one thing differ by. indirect is forced, on the same "
        "tile: above 1 it took longer."
    )
    return table


def _by_class(groups: Sequence[Group], where: str) -> Table:
    columns = ("<class", "<compared", "layers", "geometric mean", "worst", "<on", "best", "<on", "<paper")
    table = Table(f"How many times as fast as im2col and GEMM on the same tile, by class, {where}", columns)
    for name in CLASSES:
        found = [group for group in groups if group[OURS]["class"] == name]
        if not found:
            continue
        paper = f"up to {BEST_RATIO:.2f}" if name != POINTWISE else ""
        compared = found[0][OURS]["algorithm"]
        ratios = [(_median(group, SAME_TILE), group[OURS]) for group in found]
        table.rows.append([name, compared, *_spread(ratios), paper])
        if name == POINTWISE:
            forced = [(_median(group, SAME_TILE) / _median(group, INDIRECT), group[OURS]) for group in found]
            table.rows.append([name, "indirect, forced", *_spread(forced), "minor reduction"])
    table.notes += _agreement(groups)
    return table


def _spread(ratios: Sequence[tuple[float, Record]]) -> list[str]:
    """How many layers, the geometric mean, the worst and the best with their layers."""
    worst, best = min(ratios, key=lambda pair: pair[0]), max(ratios, key=lambda pair: pair[0])
    cells = [str(len(ratios)), f"{geometric_mean([ratio for ratio, _ in ratios]):.3f}"]
    for ratio, record in (worst, best):
        cells += [f"{ratio:.2f}", short_shape(record["model"])]
    return cells


def _median(group: Group, variant: str) -> float:
    """How many times as long as ours it took."""
    return float(group[variant]["ratio"]["median"])


def _agreement(groups: Sequence[Group]) -> list[str]:
    """What agrees with the paper and what does not, in sentences."""
    notes = []
    needing = [group for group in groups if group[OURS]["class"] != POINTWISE]
    if needing:
        ratios = [_median(group, SAME_TILE) for group in needing]
        copying = [_copying(group[SAME_TILE]) for group in needing]
        mean = geometric_mean(ratios)
        verdict = "which agrees: the copy is worth avoiding" if mean > 1 else "which does not agree"
        notes.append(
            f"Paper: indirect is up to {percent(BEST_RATIO - 1)} faster than im2col. Here up to "
            f"{percent(max(ratios) - 1)}, in the geometric mean {percent(mean - 1)}, {verdict}. What there is to gain "
            f"is the copy: {percent(min(copying))} to {percent(max(copying))} of im2col's time, least where many "
            "output channels share it."
        )
        slower = [group for group in needing if group[SAME_TILE]["ratio"]["p90"] < 1]
        if slower:
            names = ", ".join(short_shape(group[OURS]["model"]) for group in slower)
            products = [_product(group[SAME_TILE]) / group[OURS]["median_ms"] for group in slower]
            notes.append(
                f"im2col was faster on {len(slower)} of {len(needing)} layers ({names}): its product alone takes "
                f"{percent(min(products))} to {percent(max(products))} of indirect's time there, on rows that lie in "
                "order and need no offsets."
            )
    pointwise = [group for group in groups if group[OURS]["class"] == POINTWISE]
    if pointwise:
        same = geometric_mean([_median(group, SAME_TILE) for group in pointwise])
        forced = geometric_mean([_median(group, INDIRECT) for group in pointwise])
        notes.append(
            f"Paper: indirect loses a little on 1x1 filters of stride 1. Here, forced on them, it takes {forced:.3f} "
            f"times as long as direct_gemm, which {'agrees' if forced > 1 else 'it does not confirm'}; they go to "
            f"direct_gemm, the baseline's own GEMM ({same:.3f} times as long, the noise), so nothing is lost."
        )
    return notes


def memory(records: Sequence[Record]) -> Table:
    batches = sorted({record["batch"] for record in records})
    columns = ["<layer", "<shape", "<class", "entries a pixel", "buffer KiB"]
    for batch in batches:
        columns += [f"im2col KiB, batch {batch}", "ratio"]
    table = Table("Memory of im2col's patches and of the indirection buffer", [*columns, "paper, a batch"])
    layers: dict[str, dict[int, Record]] = {}
    for record in records:
        layers.setdefault(record["model"], {})[record["batch"]] = record
    for group in layers.values():
        first = group[batches[0]]
        cells = [*_layer(first), first["class"], str(first["entries_per_pixel"]), _kib(first["indirection_bytes"])]
        for batch in batches:
            cells += [_kib(group[batch]["patches_bytes"]), f"{group[batch]['ratio']:.1f}"]
        table.rows.append([*cells, f"{first['published_ratio']:.1f}"])
    least = min(record["ratio"] / record["published_ratio"] for record in records)
    zero = max(record["zero_bytes"] for record in records)
    table.notes.append(
        f"Paper: one pointer of 8 bytes a pixel and tap, C/2 times smaller than the patches in f32. Ours is at least "
        f"{least:.1f} times better than that on every layer: offsets of {records[0]['entry_bytes']} bytes from the "
        "image's beginning, one buffer for all images of a batch, while im2col holds the patches of all. Where a "
        "filter row of few channels is one run of memory (first layers), an entry serves the whole row."
    )
    table.notes.append(
        f"Not counted: the row of zeros that stands for padding (at most {zero} bytes), and the table by which our "
        "im2col finds what it copies, as large as an indirection buffer."
    )
    return table


def _layer(record: Record) -> list[str]:
    return [f"{record['network']} {record['layer']}", short_shape(record["model"])]


def _tile(record: Record) -> str:
    return f"{record['tile']['rows']}x{record['tile']['vectors']}"


def _microseconds(record: Record) -> str:
    return f"{1e3 * record['median_ms']:.1f}"


def _ratio(record: Record) -> list[str]:
    ratio = record["ratio"]
    return [f"{ratio['median']:.2f}", f"{ratio['p10']:.2f}-{ratio['p90']:.2f}"]


def _own(group: Group) -> list[str]:
    if OWN_TILE not in group:
        return ["", ""]
    own = group[OWN_TILE]
    return [f"{_microseconds(own)} ({_tile(own)})", f"{own['ratio']['median']:.2f}"]


def _copying(record: Record) -> float:
    phases = record["phases_ms"]
    return float(phases["patches"] / sum(phases.values()))


def _product(record: Record) -> float:
    """Milliseconds of im2col's matrix product."""
    return float(record["phases_ms"]["gemm"])


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:.1f}"


TABLES: dict[str, Callable[[Sequence[Record]], Table | list[Table]]] = {
    indirect_memory.PROTOCOL: memory,
    indirect_time.PROTOCOL: times,
}
