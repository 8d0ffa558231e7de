"""Tables of Winograd's algorithm after Lavin and Gray (2015)."""

from __future__ import annotations

from collections.abc import Sequence

from waterline.bench.experiments import winograd, winograd_accuracy, winograd_speed
from waterline.bench.experiments.winograd_paper import FLOPS_PER_IMAGE, NETWORK, PEAK_FLOPS_PER_S
from waterline.bench.records import Record
from waterline.report.tables import Table, milliseconds, percent


def operations(records: Sequence[Record]) -> Table:
    columns = ("<algorithm", "multiplications", "of direct", "data", "filter", "inverse", "paper", "as flops")
    table = Table("Operations of the transforms of one tile of one channel", columns)
    for record in records:
        table.rows.append(
            (
                record["algorithm"],
                str(record["multiplications"]),
                f"1/{record['direct_multiplications'] / record['multiplications']:.2f}",
                *map(str, record["instructions"]),
                " / ".join(map(str, record["published_instructions"])),
                " / ".join(map(str, record["flops"])),
            )
        )
    table.notes.append(
        "Instructions: an addition, a multiplication or a multiply-add is one, as the paper counts; as flops a "
        "multiply-add is two. Filters are transformed once, when a network is compiled."
    )
    return table


def errors(records: Sequence[Record]) -> Table:
    columns = ("<layer", "<algorithm", "max error", "rms error", "of direct", "paper's error", "of direct")
    table = Table("Largest error of an output element, inputs and filters uniform in [-1, 1]", columns)
    worst: dict[str, float] = {}
    previous = None
    for record in records:
        layer = record["layer"]
        algorithm = record["algorithm"] + (" (emulated)" if record["is_emulated"] else "")
        worst[algorithm] = max(worst.get(algorithm, 0.0), record["ratio_to_direct"])
        published = record["published_max_error"]
        table.rows.append(
            (
                layer if layer != previous else "",
                algorithm,
                f"{record['max_error']:.2e}",
                f"{record['rms_error']:.2e}",
                f"{record['ratio_to_direct']:.2f}",
                f"{published:.2e}" if published is not None else "",
                f"{record['published_ratio_to_direct']:.2f}" if published is not None else "",
            )
        )
        previous = layer
    table.notes.append(
        f"All output elements of an image, {records[0]['seeds']} sets of data, against sums in float64. Emulated: the "
        "same steps by NumPy in float32, for points that no kernel is built with."
    )
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in worst.items() if ratio != 1.0)
    table.notes.append(f"Largest error on any layer, of direct summation's there: {ratios}.")
    return table


def by_batch(records: Sequence[Record]) -> Table:
    has_published = any(record["published"] for record in records)
    columns = ["threads", "batch", "ms", "GFLOP/s", "of peak", "direct ms", "ratio", "ONNX Runtime ms", "ratio"]
    columns += ["paper TFLOP/s", "of peak", "of cuDNN"] if has_published else []
    first = records[0]
    image = f"{first['flops'] / first['batch'] / 1e9:.2f} GFLOP an image"
    title = f"{first['model']}: its {first['convolutions']} convolutions, {image} by the direct algorithm"
    table = Table(title, columns)
    groups: dict[tuple[int, int], dict[str, Record]] = {}
    for record in records:
        groups.setdefault((record["threads"], record["batch"]), {})[record["variant"]] = record
    for (threads, batch), group in groups.items():
        ours = group[winograd_speed.DEFAULT]
        cells = [str(threads), str(batch), milliseconds(ours["median_ms"])]
        cells += [f"{ours['effective_flops_per_s'] / 1e9:.1f}", percent(ours["computational_efficiency"])]
        for name in (winograd_speed.DIRECT, winograd_speed.PEER):
            other = group.get(name)
            cells += [milliseconds(other["median_ms"]), f"{other['ratio_of_medians']:.2f}"] if other else ["", ""]
        if has_published:
            cells += _published(ours)
        table.rows.append(cells)
    table.notes.append(
        "Convolutions alone, by each engine's profiler: without pooling, classifier and changes of layout. "
        "A ratio above 1 is how many times as long the other took."
    )
    table.notes += _growth(groups)
    if has_published and first["model"] == NETWORK:
        table.notes.append(
            f"Paper: F(2x2,3x3) in float32 on a Titan X of {PEAK_FLOPS_PER_S / 1e12:.2f} TFLOP/s, and its speed-up "
            f"over cuDNN v3; {FLOPS_PER_IMAGE / 1e9:.2f} GFLOP an image."
        )
    return table


def _published(record: Record) -> list[str]:
    published = record["published"]
    if not published:
        return ["", "", ""]
    rate = record["batch"] * FLOPS_PER_IMAGE / (published["f2x2_ms"] * 1e-3)
    return [f"{rate / 1e12:.2f}", percent(rate / PEAK_FLOPS_PER_S), f"{published['speedup']:.2f}"]


def _growth(groups: dict[tuple[int, int], dict[str, Record]]) -> list[str]:
    """Whether the rate falls as the batch grows: for each number of threads, the lowest of the smallest batch's."""
    notes = []
    for threads in dict.fromkeys(threads for threads, _ in groups):
        rates = {
            batch: group[winograd_speed.DEFAULT]["effective_flops_per_s"]
            for (count, batch), group in groups.items()
            if count == threads
        }
        if len(rates) > 1:
            smallest = min(rates)
            batch = min((size for size in rates if size != smallest), key=lambda size: rates[size])
            share = percent(rates[batch] / rates[smallest])
            notes.append(
                f"{threads} thread{'s' if threads > 1 else ''}: the lowest rate of a larger batch, at {batch}, is "
                f"{share} of that at batch {smallest}."
            )
    return notes


TABLES = {
    winograd.OPERATIONS_PROTOCOL: operations,
    winograd_accuracy.PROTOCOL: errors,
    winograd_speed.PROTOCOL: by_batch,
}
