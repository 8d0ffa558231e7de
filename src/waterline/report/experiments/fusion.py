"""Tables of block fusion after Lavin (2024): blocks, workspace, whole networks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from waterline.bench.experiments import fusion
from waterline.bench.experiments.efficiency_paper import CONVFIRST_SPEEDUP
from waterline.bench.experiments.fusion_network import NO, PARTLY, PLANNER, UNFUSED, WHOLE, YES
from waterline.bench.records import Record
from waterline.bench.timing import geometric_mean
from waterline.report.tables import Table, milliseconds, percent

Block = Mapping[str, object]
Place = tuple[int, int]  # batch, threads

_WHOLE_NOTE = (
    "Microseconds of the block as one kernel, and how many times as long its layers take one after the other, round by "
    "round. *: the planner fuses just these layers; ~: it fuses others that these are part of, or a part of these. "
    "Blocks that it does not fuse are fused here all the same, whatever they cost."
)
_PLANNER_NOTE = "The blocks that the planner takes by itself; where a cell is empty it takes others for that batch."
_KINDS_NOTE = (
    "Blocks of a network that are alike run the same kernels; a kind is all of these, and its ratio their geometric "
    "mean, which noise disturbs less than a single block's. At peak: the mean, if every block ran at the peak that was "
    "measured in the same rounds, which no kernel reaches."
)
_WORKSPACE_NOTE = (
    "MB between the layers (the arena), and beside it the memory of all threads, where the rows inside blocks are; "
    "ratio: of the sums."
)
_PAPER = (
    "Paper: kernels that compute a whole residual block create temporal locality, avoid communication and reduce the "
    f"workspace; ConvFirst with them ran approximately {CONVFIRST_SPEEDUP:g} times as fast as ConvNeXt in PyTorch "
    "Inductor, on a GPU. It gives no figure for fusion alone, which is what is measured here."
)


def tables(records: Sequence[Record]) -> list[Table]:
    """Blocks network by network, all of them together, workspace, and whole networks."""
    found: list[Table] = []
    for model in dict.fromkeys(record["model"] for record in records):
        own = [record for record in records if record["model"] == model]
        for variant, title, note in (
            (WHOLE, f"Whole blocks of {model}, fused", _WHOLE_NOTE),
            (PLANNER, f"What the planner fuses of {model}", _PLANNER_NOTE),
        ):
            table = _of_blocks([record for record in own if record["variant"] == variant], title)
            if table.rows:
                # What is the same for all of them is said of the first.
                table.notes += [] if any(note in each.notes for each in found) else [note]
                found.append(table)
    return [*found, _together(records), _workspace(records), _networks(records)]


def blocks_of(record: Record) -> list[Block]:
    """A record's columns as rows."""
    columns = record["blocks"]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _of_blocks(records: Sequence[Record], title: str) -> Table:
    """A line for each block, a column for each batch and number of threads."""
    places = [(record["batch"], record["threads"]) for record in records]
    cells: dict[tuple[str, str, str], dict[Place, Block]] = {}
    for place, record in zip(places, records, strict=True):
        for block in blocks_of(record):
            key = (str(block["name"]), str(block["shape"]), str(block["layers"]))
            cells.setdefault(key, {})[place] = block
    table = Table(title, ["<block", "<layers", *(_where(place) for place in places)])
    for (name, shape, _), found in cells.items():
        table.rows.append([name, shape, *(_cell(found.get(place)) for place in places)])
    for label, reduce in (("geometric mean", geometric_mean), ("least", min)):
        ratios = [_ratios(blocks_of(record)) for record in records]
        table.totals.append([label, "", *(_figure(reduce(values)) if values else "" for values in ratios)])
    return table


def _cell(block: Block | None) -> str:
    if block is None:
        return ""
    mark = {YES: "*", PARTLY: "~"}.get(str(block["planner"]), "")
    return f"{_number(block, 'fused_ns') / 1e3:.0f} us, {_number(block, 'ratio'):.2f}{mark}"


def _together(records: Sequence[Record]) -> Table:
    """Of all networks: the means, and the least of what the planner fuses."""
    columns = ("batch", "threads", "<blocks", "number", "geometric mean", "least", "kinds", "least kind", "at peak")
    table = Table("All blocks: time of their layers one after the other / time of the block", columns)
    for place in _places(records):
        here = [record for record in records if (record["batch"], record["threads"]) == place]
        table.rows += [[*map(str, place), *cells] for cells in _summaries(here)]
    table.totals += [["all", "", *cells] for cells in _summaries(records)]
    table.notes += [_KINDS_NOTE, _PAPER]
    return table


def _summaries(records: Sequence[Record]) -> list[list[str]]:
    """Of three groups of blocks: name, number, mean and least, and the same of those that are alike."""

    def kinds(variant: str, planner: Collection[str] = (YES, PARTLY, NO)) -> list[list[tuple[float, float]]]:
        found: dict[tuple[object, ...], list[tuple[float, float]]] = {}
        for record in records:
            for block in blocks_of(record) if record["variant"] == variant else ():
                if block["planner"] in planner:
                    key = (record["model"], record["batch"], record["threads"], block["shape"])
                    found.setdefault(key, []).append((_number(block, "ratio"), _at_peak(block, record)))
        return list(found.values())

    groups = {
        "whole blocks": kinds(WHOLE),
        "whole blocks that the planner fuses": kinds(WHOLE, (YES,)),
        "all that the planner fuses": kinds(PLANNER),
    }
    lines = []
    for name, found in groups.items():
        ratios = [ratio for alike in found for ratio, _ in alike]
        at_peak = [each for alike in found for _, each in alike if each]
        cells = [""] * 3
        if ratios:
            least_kind = min(geometric_mean([ratio for ratio, _ in alike]) for alike in found)
            cells = [_figure(value) for value in (geometric_mean(ratios), min(ratios), least_kind)]
        bound = _figure(geometric_mean(at_peak)) if at_peak else ""
        lines.append([name, str(len(ratios)), *cells[:2], str(len(found)), cells[2], bound])
    return lines


def _at_peak(block: Block, record: Record) -> float:
    """The ratio if the block ran at the peak; 0 where a record of before does not have its operations."""
    if "flops" not in block:
        return 0.0
    return _number(block, "unfused_ns") * 1e-9 * float(record["peak_flops_per_s"]) / _number(block, "flops")


def _workspace(records: Sequence[Record]) -> Table:
    columns = ["<network", "batch", "threads", "unfused", "and threads", "planner", "and threads", "unfused / planner"]
    table = Table("Workspace in MB", [*columns, "unfused / whole blocks"])
    for variants in _comparisons(records):
        unfused, planned = variants[UNFUSED], variants[PLANNER]
        cells = [planned["model"], str(planned["batch"]), str(planned["threads"])]
        for record in (unfused, planned):
            cells += [f"{record['arena_bytes'] / 1e6:.2f}", f"{record['scratch_bytes'] / 1e6:.2f}"]
        ratios = [_workspace_bytes(unfused) / _workspace_bytes(variants[each]) for each in (PLANNER, WHOLE)]
        table.rows.append([*cells, *map(_figure, ratios)])
    table.notes.append(_WORKSPACE_NOTE)
    return table


def _workspace_bytes(record: Record) -> int:
    return int(record["arena_bytes"] + record["scratch_bytes"])


def _networks(records: Sequence[Record]) -> Table:
    columns = ["<network", "batch", "threads", "unfused ms", "whole blocks ms", "planner ms", "unfused / planner"]
    table = Table("Whole networks", [*columns, "p10-p90", "CE unfused", "CE planner", "GFLOP/s at peak"])
    for variants in _comparisons(records):
        planned = variants[PLANNER]
        cells = [planned["model"], str(planned["batch"]), str(planned["threads"])]
        cells += [milliseconds(variants[each]["median_ms"]) for each in (UNFUSED, WHOLE, PLANNER)]
        speedup = planned["speedup"]
        cells += [_figure(speedup["median"]), f"{speedup['p10']:.2f}-{speedup['p90']:.2f}"]
        cells += [percent(variants[each]["computational_efficiency"]) for each in (UNFUSED, PLANNER)]
        table.rows.append([*cells, f"{planned['peak_flops_per_s'] / 1e9:.0f}"])
    speedups = [variants[PLANNER]["speedup"]["median"] for variants in _comparisons(records)]
    table.totals.append(["geometric mean", *[""] * 5, _figure(geometric_mean(speedups)), *[""] * 4])
    table.notes.append(
        "Whole calls, from NCHW. CE: computational efficiency, the direct algorithm's operations over the time and the "
        "peak that was measured in the same rounds."
    )
    return table


def _comparisons(records: Sequence[Record]) -> list[dict[str, Record]]:
    """Of each network, batch and number of threads: variant -> record."""
    found: dict[tuple[str, int, int], dict[str, Record]] = {}
    for record in records:
        key = (record["model"], record["batch"], record["threads"])
        found.setdefault(key, {})[record["variant"]] = record
    return list(found.values())


def _places(records: Iterable[Record]) -> list[Place]:
    return sorted({(record["batch"], record["threads"]) for record in records})


def _where(place: Place) -> str:
    batch, threads = place
    return f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"


def _ratios(blocks: Iterable[Block]) -> list[float]:
    return [_number(block, "ratio") for block in blocks]


def _number(block: Block, name: str) -> float:
    value = block[name]
    assert isinstance(value, int | float)
    return float(value)


def _figure(value: float) -> str:
    return f"{value:.2f}"


TABLES: dict[str, Callable[[Sequence[Record]], Table | list[Table]]] = {fusion.PROTOCOL: tables}
