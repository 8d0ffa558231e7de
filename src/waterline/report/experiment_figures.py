"""From the records of an experiment to its figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from waterline.bench.experiments import efficiency as networks
from waterline.bench.experiments import fusion as blocks
from waterline.bench.experiments import indirect_time, maxdnn_layer, training_speed, winograd_speed
from waterline.bench.experiments.fusion_network import WHOLE
from waterline.bench.experiments.indirect_paper import CLASSES, POINTWISE
from waterline.bench.records import Record
from waterline.bench.timing import geometric_mean
from waterline.report import figures
from waterline.report.experiments.training import ENGINES, OURS
from waterline.report.figures import BatchRow, Drawing, EfficiencyRow, GapPoint, RatioRow, Source
from waterline.report.tables import short_shape


def figure(records: Sequence[Record], theme: str = "light") -> Drawing | None:
    """The figure of an experiment, for the first number of threads in its records; None where nothing was timed.

    Raises:
        InvalidArgument: no such theme, or no matplotlib.
    """
    for protocol, draw in _FIGURES.items():
        found = [record for record in records if record["protocol"] == protocol]
        if found:
            threads = found[0]["threads"]
            return draw(latest([record for record in found if record["threads"] == threads]), theme)
    return None


def latest(records: Sequence[Record]) -> list[Record]:
    """The last record of each layer or network, engine, variant, batch and state of data, in the order of the first."""
    keys = ("model", "network", "engine", "variant", "batch", "data")
    return list({tuple(record.get(key) for key in keys): record for record in records}.values())


def maxdnn(records: Sequence[Record], theme: str) -> Drawing:
    """Every layer by network, a bar a batch, and maxDNN's own as marks."""
    rows = []
    for record in records:
        if record["variant"] == maxdnn_layer.OURS:
            published: dict[str, Any] = record["published"] or {}
            rows.append(
                EfficiencyRow(
                    layer=str(published.get("layer", record["layer"])),
                    group=record["network"],
                    series=f"batch {record['batch']}",
                    efficiency=record["computational_efficiency"],
                    published=published.get("maxdnn"),
                )
            )
    return figures.efficiency_bars(
        rows,
        _source(records),
        name="experiment-maxdnn",
        title="Computational efficiency of every convolution, by batch",
        published="maxDNN, batch 128",
        theme=theme,
    )


def indirect(records: Sequence[Record], theme: str) -> Drawing:
    """Every layer by class: how many times as long im2col and GEMM take on the same tile, with cold data."""
    cold = [record for record in records if record["data"] == indirect_time.COLD]
    rows = []
    for kind in CLASSES:
        for record in cold:
            if record["class"] == kind and record["variant"] == indirect_time.SAME_TILE:
                ratio = record["ratio"]
                label = f"{kind} (direct_gemm)" if kind == POINTWISE else kind
                rows.append(RatioRow(short_shape(record["model"]), ratio["median"], label, ratio["p10"], ratio["p90"]))
    return figures.ratio_rows(
        rows,
        _source(cold),
        name="experiment-indirect",
        title="Indirect convolution against im2col and GEMM on the same register tile",
        quantity="time of im2col and GEMM / ours",
        theme=theme,
    )


def winograd(records: Sequence[Record], theme: str) -> Drawing:
    """All convolutions of a network by batch, a line a variant."""
    rows = [BatchRow(record["variant"], record["batch"], record["computational_efficiency"]) for record in records]
    return figures.by_batch(
        rows,
        _source(records),
        name="experiment-winograd",
        title=f"The convolutions of {records[0]['model']} by batch",
        theme=theme,
    )


def efficiency(records: Sequence[Record], theme: str) -> Drawing:
    """The networks of the first batch, each from its ideal latency to the one by its layers' measured times."""
    found = [record for record in records if record["batch"] == records[0]["batch"]]
    points = [
        GapPoint(
            record["model"],
            record["flops"] / 1e9,
            ideal_ns=record["ideal_ms"] * 1e6,
            bound_ns=record["bound_ms"] * 1e6,
            time_ns=record["profiled_ms"] * 1e6,
        )
        for record in found
    ]
    return figures.efficiency_gap(points, _source(found), theme=theme)


def fusion(records: Sequence[Record], theme: str) -> Drawing:
    """Whole blocks by network and batch, those that are alike as one: their layers one after the other against them."""
    rows = []
    whole = [record for record in records if record["variant"] == WHOLE]
    for record in whole:
        alike: dict[str, list[tuple[str, float]]] = {}
        columns = record["blocks"]
        for name, shape, ratio in zip(columns["name"], columns["shape"], columns["ratio"], strict=True):
            alike.setdefault(shape, []).append((name, ratio))
        for shape, found in alike.items():
            ratios = [ratio for _, ratio in found]
            label = f"{found[0][0]}{f' ({len(found)})' if len(found) > 1 else ''}, {shape.partition(':')[0]}"
            group = f"{record['model']}, batch {record['batch']}"
            rows.append(RatioRow(label, geometric_mean(ratios), group, min(ratios), max(ratios)))
    return figures.ratio_rows(
        rows,
        _source(whole),
        name="experiment-fusion",
        title="Kinds of residual blocks as one kernel against their layers one after the other",
        quantity="time of the layers / time of the block; in brackets: blocks that are alike",
        theme=theme,
    )


def training(records: Sequence[Record], theme: str) -> Drawing:
    """Every network by batch in every engine, beside the first network of its pair in Waterline."""
    rows = []
    for record in records:
        ratio, first = record["ratio"], record["ratio"]["to"].partition(" in ")[0]
        if record["engine"] != OURS or record["model"] != first:
            group = f"{record['model']}, batch {record['batch']}"
            rows.append(RatioRow(ENGINES[record["engine"]], ratio["median"], group, ratio["p10"], ratio["p90"]))
    return figures.ratio_rows(
        rows,
        _source(records),
        name="experiment-training",
        title="ConvFirst and ConvNeXt in every engine",
        quantity="time / time of ConvFirst in Waterline",
        theme=theme,
    )


def _source(records: Sequence[Record]) -> Source:
    """Of one machine and number of threads; of all their commits, if parts were measured again later."""
    first: dict[str, Any] = records[0]
    commits = dict.fromkeys(record["commit"] for record in records if record["commit"])
    return Source(first["machine"]["name"], first["threads"], ", ".join(commits) or None)


# Protocol -> its figure; an experiment has the first of these that it has records of.
_FIGURES: dict[str, Callable[[Sequence[Record], str], Drawing]] = {
    maxdnn_layer.PROTOCOL: maxdnn,
    indirect_time.PROTOCOL: indirect,
    winograd_speed.PROTOCOL: winograd,
    networks.PROTOCOL: efficiency,
    blocks.PROTOCOL: fusion,
    training_speed.PROTOCOL: training,
}
