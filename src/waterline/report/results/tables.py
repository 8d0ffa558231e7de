"""Tables of `waterline bench` and of the protocols beside it, from the newest records of one machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from waterline.bench.records import Record
from waterline.bench.timing import geometric_mean
from waterline.report.results.runs import grouped
from waterline.report.tables import Table, milliseconds, percent, short_shape

PEERS = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "ncnn": "ncnn",
    "torch": "PyTorch",
    "inductor": "torch.compile",
}
OURS = "waterline"
DIRECT = {"indirect", "direct_gemm"}
WANTED_RATIO = 2.0  # of the 3x3 layers


# ---- networks -------------------------------------------------------------------------------------------------------
def networks(records: Sequence[Record]) -> Table:
    """A line for each network, batch and number of threads, and the geometric means."""
    comparisons = grouped(records)
    peers = _peers(records)
    count = {1: "that peer", 2: "the faster of the two", 3: "the fastest of the three"}.get(len(peers), "the fastest")
    last = f"{count} / Waterline"
    has_batches = len({record["batch"] for record in records}) > 1
    columns = ["<network", *(["batch"] if has_batches else []), "threads", "Waterline ms"]
    table = Table("", [*columns, *(f"{PEERS[peer]} ms" for peer in peers), last])
    models = list(dict.fromkeys(group[0]["model"] for group in comparisons))
    comparisons.sort(key=lambda group: (models.index(group[0]["model"]), group[0]["batch"], group[0]["threads"]))
    ratios: dict[int, list[float]] = {}
    for group in comparisons:
        ours = group[0]
        theirs = {record["engine"]: record for record in group[1:]}
        least = min((record["ratio"]["median"] for record in theirs.values()), default=None)
        if least is not None:
            ratios.setdefault(ours["threads"], []).append(least)
        cells = [ours["model"], *([str(ours["batch"])] if has_batches else []), str(ours["threads"])]
        cells += [milliseconds(ours["median_ms"])]
        cells += [milliseconds(theirs[peer]["median_ms"]) if peer in theirs else "" for peer in peers]
        table.rows.append([*cells, _ratio(least)])
    for threads, values in sorted(ratios.items()):
        empty = [""] * (len(columns) - 3) if has_batches else []
        cells = ["geometric mean", *empty, str(threads), "", *("" for _ in peers)]
        table.totals.append([*cells, f"{geometric_mean(values):.2f}"])
    return table


# ---- layers ---------------------------------------------------------------------------------------------------------
def against_peers(records: Sequence[Record]) -> Table:
    """Of layers that several peers were measured on: calls against calls, and the kernels."""
    peers = _peers(records)
    table = Table("", ["<layer", "<algorithm", "Waterline ms", *(f"{PEERS[peer]} / Waterline" for peer in peers)])
    table.columns = [*table.columns, "kernel GFLOP/s", "of peak", "kernel, ONNX Runtime / Waterline"]
    reached = dict.fromkeys(peers, 0)
    comparisons = grouped(records)
    for group in comparisons:
        ours, theirs = group[0], {record["engine"]: record for record in group[1:]}
        cells = [short_shape(ours["model"]), ours["algorithm"], milliseconds(ours["median_ms"])]
        for peer in peers:
            ratio = theirs[peer]["ratio"]["median"] if peer in theirs else None
            cells.append(_ratio(ratio))
            reached[peer] += ratio is not None and ratio >= WANTED_RATIO
        cells.append(f"{ours['flops'] / ours['kernel_ms'] / 1e6:.0f}")
        table.rows.append([*cells, percent(ours["kernel_efficiency"]), _kernel_ratio(group)])
    table.notes.append(
        f"At least {WANTED_RATIO:g} times as fast, whole calls: "
        + ", ".join(f"{PEERS[peer]} on {count} of {len(comparisons)} layers" for peer, count in reached.items())
        + "."
    )
    return table


def share_of_peak(records: Sequence[Record]) -> Table:
    """Of layers by algorithm: the kernels alone."""
    has_threads = len({record["threads"] for record in records}) > 1
    has_peer = any(record["engine"] == "onnxruntime" for record in records)
    columns = ["<layer", "<algorithm", *(["threads"] if has_threads else []), "kernel us", "of peak"]
    columns += ["ONNX Runtime, of peak", "kernel, ONNX Runtime / Waterline", "whole call"] if has_peer else []
    table = Table("", columns)
    for group in grouped(records):
        peer = next((record for record in group if record["engine"] == "onnxruntime"), None)
        for ours in (record for record in group if record["engine"] == OURS):
            cells = [short_shape(ours["model"]), ours["algorithm"], *([str(ours["threads"])] if has_threads else [])]
            cells += [f"{1e3 * ours['kernel_ms']:.1f}", percent(ours["kernel_efficiency"])]
            if has_peer and peer is not None:
                cells += [percent(peer["kernel_efficiency"]), _ratio(peer["kernel_ms"] / ours["kernel_ms"])]
                cells += [_ratio(peer["median_ms"] / ours["median_ms"])]
            elif has_peer:
                cells += ["", "", ""]
            table.rows.append(cells)
    return table


def calls(records: Sequence[Record]) -> Table:
    """Of layers: whole calls against ONNX Runtime's."""
    table = Table("", ("<layer", "<algorithm", "Waterline ms", "ONNX Runtime ms", "ratio"))
    for group in grouped(records):
        ours = group[0]
        peer = next((record for record in group if record["engine"] == "onnxruntime"), None)
        cells = [short_shape(ours["model"]), ours["algorithm"], milliseconds(ours["median_ms"])]
        times = [milliseconds(peer["median_ms"]), _ratio(peer["ratio"]["median"])] if peer else ["", ""]
        table.rows.append([*cells, *times])
    return table


def several_peers(group: Sequence[Record]) -> bool:
    """Whether a comparison is one of `against_peers`."""
    return len({record["engine"] for record in group}) > 2


def only_direct(group: Sequence[Record]) -> bool:
    return {record["algorithm"] for record in group if record["engine"] == OURS} <= DIRECT


def only(algorithm: str) -> Callable[[Sequence[Record]], bool]:
    return lambda group: {record["algorithm"] for record in group if record["engine"] == OURS} == {algorithm}


def selected(
    records: Sequence[Record], layers: Collection[str], accept: Callable[[Sequence[Record]], bool]
) -> list[Record]:
    """Records of comparisons of some layers, in the order of these, then by threads."""
    order = list(layers)
    groups = [group for group in grouped(records) if group[0]["model"] in order and accept(group)]
    newest: dict[tuple[str, int], list[Record]] = {}
    for group in groups:
        key = (group[0]["model"], group[0]["threads"])
        if key not in newest or group[0]["date"] > newest[key][0]["date"]:
            newest[key] = group
    ordered = sorted(newest.items(), key=lambda item: (item[0][1], order.index(item[0][0])))
    return [record for _, group in ordered for record in group]


# ---- other protocols ------------------------------------------------------------------------------------------------
def overhead(records: Sequence[Record]) -> Table:
    table = Table("", ("<engine", "threads", "us a call", "p10", "p90", "ratio"))
    for record in records:
        times = (f"{1e3 * record[name]:.1f}" for name in ("median_ms", "p10_ms", "p90_ms"))
        table.rows.append((name_of(record), str(record["threads"]), *times, _ratio(record["ratio"]["median"])))
    return table


def startup(records: Sequence[Record]) -> Table:
    columns = ("<engine", "import s", "calibrate s", "compile s", "first run ms", "peak MiB")
    table = Table("", columns)
    for record in records:
        cache = f", {record['cache']} cache" if record["cache"] else ""
        calibrate = f"{record['calibrate_s']:.2f}" if "calibrate_s" in record else ""
        cells = [name_of(record) + cache, f"{record['import_s']:.2f}", calibrate, f"{record['compile_s']:.2f}"]
        cells += [f"{1e3 * record['first_run_s']:.1f}", f"{record['peak_memory_bytes'] / 2**20:.0f}"]
        table.rows.append(cells)
    return table


def accuracy(records: Sequence[Record]) -> Table:
    columns = ("<network", "largest", "max error", "rms error", "of bound", "PyTorch max", "PyTorch rms")
    table = Table("", (*columns, "ratio of max", "of rms", "<"))
    for record in records:
        ratios = record["error_ratio"]
        cells = [record["model"], f"{record['largest']:.3g}", f"{record['max_error']:.2e}"]
        cells += [f"{record['rms_error']:.2e}", _ratio(record["bound_share"])]
        cells += [f"{record['torch_max_error']:.2e}", f"{record['torch_rms_error']:.2e}"]
        cells += [_ratio(ratios["max"]), _ratio(ratios["rms"]), "ok" if record["passes"] else "FAILED"]
        table.rows.append(cells)
    return table


def tuned(records: Sequence[Record]) -> Table:
    """Whole networks by the protocol of `bench.tuned`."""
    columns = ("<network", "threads", "layers measured", "changed", "by cost ms", "by measurement ms", "ratio")
    table = Table("", (*columns, "p10-p90"))
    for group in grouped(records):
        mine, by_cost = group
        ratio = by_cost["ratio"]
        cells = [mine["model"], str(mine["threads"]), f"{mine['measured']} of {mine['layers']}", str(mine["changed"])]
        cells += [milliseconds(by_cost["median_ms"]), milliseconds(mine["median_ms"]), _ratio(ratio["median"])]
        table.rows.append([*cells, f"{ratio['p10']:.2f}-{ratio['p90']:.2f}"])
    return table


def tuning(records: Sequence[Record]) -> Table:
    """Sums of layers, of runs of `waterline tune`."""
    table = Table("", ("<network", "threads", "layers measured", "by cost ms", "by measurement ms", "ratio"))
    for record in records:
        cells = [record["model"], str(record["threads"]), f"{record['layers_measured']} of {record['layers']}"]
        cells += [f"{1e3 * record['by_cost_seconds']:.2f}", f"{1e3 * record['by_measurement_seconds']:.2f}"]
        table.rows.append([*cells, _ratio(record["by_cost_of_measured"])])
    return table


def name_of(record: Record) -> str:
    """An engine's name, as its makers write it."""
    return PEERS.get(record["engine"], "Waterline")


def versions_of(records: Sequence[Record]) -> dict[str, str]:
    """Peer, as its makers write it -> version."""
    found: dict[str, str] = {}
    for record in sorted(records, key=lambda each: each["date"]):
        found |= {engine: version for engine, version in record.get("versions", {}).items() if engine in PEERS}
    return {name: found[engine] for engine, name in PEERS.items() if engine in found}


def _peers(records: Sequence[Record]) -> list[str]:
    engines = {record["engine"] for record in records}
    return [peer for peer in PEERS if peer in engines]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _kernel_ratio(group: Sequence[Record]) -> str:
    ours = group[0]
    peer = next((record for record in group if record["engine"] == "onnxruntime" and "kernel_ms" in record), None)
    return "" if peer is None else _ratio(peer["kernel_ms"] / ours["kernel_ms"])
