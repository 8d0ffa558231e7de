"""Tables of computational efficiency after maxDNN (Lavin, 2015)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from waterline.algorithms.indirect.model import merges_rows
from waterline.bench.experiments import maxdnn_layer, maxdnn_paper
from waterline.bench.experiments.maxdnn_layer import OURS, PEER
from waterline.bench.records import Record
from waterline.report.tables import Table, percent, short_shape
from waterline.spec import ConvSpec, TensorView, channels_last

SUMMARY_BATCH = 16  # from here on the summary counts: smaller batches have too little work to fill a kernel
MEMORY_BOUND = "m"
PAPERS_FILTERS = 64  # of a block of its kernel


def efficiencies(records: Sequence[Record]) -> list[Table]:
    """A table for each number of threads: a line a layer, a column a batch."""
    return [
        _table([record for record in records if record["threads"] == threads], threads)
        for threads in dict.fromkeys(record["threads"] for record in records)
    ]


def _table(records: Sequence[Record], threads: int) -> Table:
    batches = sorted({record["batch"] for record in records})
    found = {(r["network"], r["model"], r["batch"], r["variant"]): r for r in records}
    has_peer = any(record["variant"] == PEER for record in records)
    columns = ["<layer", "<shape", "tile", *(f"batch {batch}" for batch in batches)]
    columns += [f"ONNX Runtime, {batch}" for batch in batches] if has_peer else []
    where = f"{threads} thread{'s' if threads > 1 else ''}"
    title = f"Computational efficiency by the direct algorithm, {where}: share of the peak measured beside it"
    table = Table(title, [*columns, "maxDNN", "cuDNN"])
    for network, model in dict.fromkeys((record["network"], record["model"]) for record in records):
        ours = [found.get((network, model, batch, OURS)) for batch in batches]
        peer = [found.get((network, model, batch, PEER)) for batch in batches]
        first = next(record for record in ours if record)
        published = first["published"]
        cells = [_name(first), short_shape(model), _tile(first), *map(_share, ours)]
        cells += map(_share, peer) if has_peer else []
        cells += [percent(published["maxdnn"]), percent(published["cudnn"])] if published else ["", ""]
        table.rows.append(cells)
    table.notes.append(
        f"{MEMORY_BOUND}: memory bound, its bytes take longer than its operations at peak. The kernel alone, as in the "
        f"paper; maxDNN and cuDNN v2: on a GTX 980, batch {maxdnn_paper.BATCH}. The paper has no VGG."
    )
    table.notes += _summary([record for record in records if record["variant"] == OURS])
    return table


def _summary(records: Sequence[Record]) -> list[str]:
    """Of layers that are not memory bound, at large batches; then what agrees with the paper."""
    counted = [r for r in records if r["batch"] >= SUMMARY_BATCH and not r["is_memory_bound"]]
    notes = []
    if counted:
        ordered = sorted(counted, key=_efficiency)
        least, best = ordered[0], ordered[-1]
        median = statistics.median(map(_efficiency, counted))
        notes.append(
            f"Not memory bound, batch {SUMMARY_BATCH} or more ({len(counted)} measurements): median {percent(median)}, "
            f"best {percent(_efficiency(best))} ({_where(best)}), "
            f"least {percent(_efficiency(least))} ({_where(least)})."
        )
        tiles = [record["tile_efficiency"] for record in counted]
        parts = [record["of_tile"] for record in counted]
        notes.append(
            f"Their register tiles alone, on data in the first-level cache: {percent(min(tiles))} to "
            f"{percent(max(tiles))} of peak, which is what this processor allows. Of that the layers reach a median of "
            f"{percent(statistics.median(parts))}, best {percent(max(parts))}."
        )
    compared = _at_paper(records)
    if compared:
        above = [record for record in compared if _efficiency(record) >= record["published"]["maxdnn"]]
        theirs = statistics.median(record["published"]["maxdnn"] for record in compared)
        over = sum(_efficiency(record) > record["published"]["cudnn"] for record in compared)
        notes.append(
            f"Paper: maxDNN's layers have a median of {percent(theirs)}, every one above cuDNN's. Here their median is "
            f"{percent(statistics.median(map(_efficiency, compared)))} at the largest batch measured; {len(above)} of "
            f"{len(compared)} reach maxDNN's share of peak, {over} are above cuDNN's of then."
        )
        notes += _differences(compared)
    return notes


def _differences(compared: Sequence[Record]) -> list[str]:
    """Where we are furthest from the paper, both ways."""
    gaps = sorted(compared, key=lambda record: _efficiency(record) - record["published"]["maxdnn"])
    notes = []
    low, high = gaps[0], gaps[-1]
    if _efficiency(low) < low["published"]["maxdnn"]:
        spec = ConvSpec.parse(low["as_run"])
        reason = ""
        if merges_rows(spec, TensorView.dense((1, spec.c, spec.h, spec.w), channels_last(4))):
            run = spec.s * spec.c
            reason = f": its filter rows are runs of {run} elements, after each of which a tile finds its rows anew"
        notes.append(
            f"Furthest below the paper: {_where(low)}, {percent(_efficiency(low))} against "
            f"{percent(low['published']['maxdnn'])}{reason}."
        )
    if _efficiency(high) > high["published"]["maxdnn"]:
        filters = high["published"]["shape"][2]
        reason = ""
        if filters % PAPERS_FILTERS:
            reason = f": its kernel computes {PAPERS_FILTERS} filters at a time, of which {filters} is no multiple"
        notes.append(
            f"Furthest above it: {_where(high)}, {percent(_efficiency(high))} against "
            f"{percent(high['published']['maxdnn'])}{reason}."
        )
    return notes


def _at_paper(records: Sequence[Record]) -> list[Record]:
    """The published layers, each at its largest batch."""
    found: dict[str, Record] = {}
    for record in records:
        if record["published"] and record["batch"] >= found.get(record["model"], record)["batch"]:
            found[record["model"]] = record
    return list(found.values())


def _efficiency(record: Record) -> float:
    return float(record["computational_efficiency"])


def _where(record: Record) -> str:
    return f"{_name(record)}, batch {record['batch']}"


def _name(record: Record) -> str:
    """The paper's name for its layers, else the network's."""
    published = record["published"]
    name = published["layer"] if published else record["layer"]
    more = len(record["layers"]) - 1
    return f"{record['network']} {name}" + (f" and {more} alike" if more else "")


def _tile(record: Record) -> str:
    return f"{record['config']['rows']}x{record['config']['vectors']}"


def _share(record: Record | None) -> str:
    if record is None:
        return "-"
    return percent(_efficiency(record)) + (f" {MEMORY_BOUND}" if record["is_memory_bound"] else "")


TABLES: dict[str, Callable[[Sequence[Record]], Table | list[Table]]] = {maxdnn_layer.PROTOCOL: efficiencies}
