"""Tables of the efficiency of whole networks after Lavin (2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from waterline.analysis import Analysis, BlockAnalysis, Causes, LayerAnalysis
from waterline.bench.experiments import efficiency
from waterline.bench.experiments.efficiency import CONVFIRST, CONVNEXT
from waterline.bench.experiments.efficiency_network import BLOCK_FIELDS, LAYER_FIELDS
from waterline.bench.experiments.efficiency_paper import CONVFIRST_SPEEDUP, GPUS
from waterline.bench.records import Record
from waterline.report.tables import Table, milliseconds, percent
from waterline.spec import ConvSpec

KINDS = ("full", "pointwise", "grouped", "depthwise", "fully connected", "fused block", "other")
DEPTHWISE = "depthwise"
LITTLE = 1.1  # a gain that is not worth a word


def networks(records: Sequence[Record]) -> list[Table]:
    """For each batch and number of threads: latency, waterline, kinds of layers, and beside GPUs."""
    tables = []
    # What is the same for all of them is said of the first.
    for i, (batch, threads) in enumerate(dict.fromkeys((record["batch"], record["threads"]) for record in records)):
        found = [record for record in records if (record["batch"], record["threads"]) == (batch, threads)]
        where = f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
        made = [(_latency(found, where), _LATENCY_NOTES), (_waterline(found, where), [_WATERLINE_NOTE])]
        made.append((_kinds(found, where), [_KINDS_NOTE]))
        if any(record["published"] for record in found):
            made.append((_beside_gpus(found, where), [_GPUS_NOTE]))
        for table, notes in made:
            table.notes += [] if i else notes
            tables.append(table)
    return tables


_LATENCY_NOTES = [
    "Ideal: the direct algorithm at peak. Layers: one inference by the profile; call: the whole of it, from NCHW. CE "
    "and EE, of the layers' time: computational efficiency (operations of the direct algorithm) and effective "
    "efficiency (operations executed).",
    "Not the paper's experiment: that is on a GPU; its table of ConvFirst's widths and depths was not at hand, so they "
    "are our own; its networks are trained, ours have random weights, so that complexity is compared and not accuracy; "
    "its blocks are one kernel each, ours where that pays (docs/block-fusion.md; nowhere in records of commits before "
    "it), so that a fused bound is an analysis and not a run.",
]
_WATERLINE_NOTE = (
    "Waterline: the efficiency that the layers' bounds allow together; fused: if every residual block were one kernel "
    "(docs/analysis.md has the rules), an analysis. Shares of the layers' time: executed operations at "
    "peak, least bytes beyond that, the rest."
)
_KINDS_NOTE = (
    "Paper: degenerate layers (pointwise, grouped, depthwise) have a low operational intensity, and therefore a low "
    "efficiency. Attainable: what the roofline allows. Fully connected: those of squeeze-and-excite as well. Other: "
    "operators without operations to count, such as normalisation and pooling, whose time is lost time."
)
_GPUS_NOTE = (
    "GPUs: PyTorch 2.4 with float16 and large batches, from timm's throughputs, in place of the paper's own tables, "
    "which could not be read."
)


def _latency(records: Sequence[Record], where: str) -> Table:
    first = records[0]["ratio"]["to"]
    columns = ["<network", "GFLOP", "executed", "M parameters", "ideal ms", "layers ms", "call ms", "p10-p90"]
    table = Table(f"Complexity, efficiency and latency, {where}", [*columns, "CE", "EE", f"time / {first}"])
    for record in records:
        cells = [record["model"], f"{record['flops'] / 1e9:.2f}", f"{record['executed_flops'] / 1e9:.2f}"]
        cells += [f"{record['parameters'] / 1e6:.2f}", milliseconds(record["ideal_ms"])]
        cells += [milliseconds(record["profiled_ms"]), milliseconds(record["median_ms"])]
        cells += [f"{milliseconds(record['p10_ms'])}-{milliseconds(record['p90_ms'])}"]
        cells += [percent(record["profiled_efficiency"]), percent(record["effective_efficiency"])]
        table.rows.append([*cells, f"{record['ratio']['median']:.3f}"])
    table.notes.append(f"Peak, measured in the same rounds: {records[0]['peak_flops_per_s'] / 1e9:.0f} GFLOP/s.")
    fast = [record["model"] for record in records if record["executed_flops"] < record["flops"]]
    if fast:
        table.notes.append(
            f"Fewer operations are executed than counted, by Winograd's algorithm, in {', '.join(fast)}."
        )
    table.notes += _against_convfirst(records)
    return table


def _against_convfirst(records: Sequence[Record]) -> list[str]:
    """The paper's own comparison, and what is different here."""
    found = {record["model"]: record for record in records}
    if not {CONVNEXT, CONVFIRST} <= set(found):
        return []
    slow, fast = found[CONVNEXT], found[CONVFIRST]
    times = slow["median_ms"] / fast["median_ms"]
    work = slow["flops"] / fast["flops"]
    fused = slow["fused_bound_ms"] / fast["fused_bound_ms"]
    gains = [record["bound_ms"] / record["fused_bound_ms"] for record in (slow, fast)]
    return [
        f"{CONVNEXT} takes {times:.2f} times as long as {CONVFIRST}: it has {work:.2f} times the operations, and "
        f"{CONVFIRST} runs at {times / work:.2f} times its efficiency. Paper: ConvFirst with block-fusion kernels ran "
        f"approximately {CONVFIRST_SPEEDUP:g} times as fast as ConvNeXt, with fewer operations and higher efficiency "
        f"both. {_agreement(times, work)}",
        f"With every block at its fused bound it would be {fused:.2f} times as long; fusing lowers the bounds "
        f"{gains[0]:.2f} and {gains[1]:.2f} times"
        + (", for here the layers' bytes take less time than their operations." if max(gains) < LITTLE else "."),
    ]


def _agreement(times: float, work: float) -> str:
    if times > 1 and times > work:
        return "Both factors point the same way here."
    return "Here the operations alone make the difference." if times > 1 else "Here it is not the faster one."


def _waterline(records: Sequence[Record], where: str) -> Table:
    columns = ("<network", "layers ms", "bound ms", "waterline", "fused bound ms", "fused waterline", "MB", "fused MB")
    table = Table(f"Waterline, and where the time goes, {where}", (*columns, "arithmetic", "memory", "overhead"))
    for record in records:
        blocks, causes = record["blocks"], record["causes_ms"]
        cells = [record["model"], milliseconds(record["profiled_ms"])]
        cells += [milliseconds(record["bound_ms"]), percent(record["waterline"])]
        cells += [milliseconds(record["fused_bound_ms"]), percent(record["fused_waterline"])]
        cells += [f"{sum(blocks['bytes']) / 1e6:.1f}", f"{sum(blocks['fused_bytes']) / 1e6:.1f}"]
        whole = sum(causes.values())
        table.rows.append([*cells, *(percent(causes[name] / whole) for name in ("arithmetic", "memory", "overhead"))])
    ridge = records[0]["peak_flops_per_s"] / records[0]["bytes_per_s"]["dram"]
    table.notes.append(f"Ridge: {ridge:.1f} operations a byte of memory.")
    gains = {record["model"]: record["bound_ms"] / record["fused_bound_ms"] for record in records}
    most, least = max(gains, key=lambda name: gains[name]), min(gains, key=lambda name: gains[name])
    table.notes.append(
        f"Fusing blocks would lower the bound most in {most}, {gains[most]:.2f} times, and least in {least}, "
        f"{gains[least]:.2f} times."
    )
    above = [record["model"] for record in records if record["profiled_ms"] < record["bound_ms"]]
    if above:
        table.notes.append(f"Faster than the direct algorithm's bound: {', '.join(above)}.")
    return table


def _kinds(records: Sequence[Record], where: str) -> Table:
    columns = ("<network", "<kind of layer", "layers", "of operations", "of time", "FLOP/B", "attainable", "CE")
    table = Table(f"By kind of layer, {where}", columns)
    for record in records:
        analysis = analysis_of(record)
        groups: dict[str, list[LayerAnalysis]] = {kind: [] for kind in KINDS}
        for layer in analysis.layers:
            groups[kind_of(layer)].append(layer)
        shown = record["model"]
        for kind, layers in groups.items():
            if layers:
                table.rows.append([shown, kind, str(len(layers)), *_of_kind(layers, analysis)])
                shown = ""
    return table


def _of_kind(layers: Sequence[LayerAnalysis], analysis: Analysis) -> list[str]:
    work, time_ns = sum(layer.flops for layer in layers), sum(layer.time_ns for layer in layers)
    bound, moved = sum(layer.bound_ns for layer in layers), sum(layer.bytes for layer in layers)
    whole = sum(layer.time_ns for layer in analysis.layers)
    cells = [percent(work / analysis.flops) if work else "", percent(time_ns / whole)]
    if not work:
        return [*cells, "", "", ""]
    at_peak = work * 1e9 / analysis.peak_flops_per_s
    return [*cells, f"{work / moved:.1f}", percent(at_peak / bound), percent(at_peak / time_ns)]


def kind_of(layer: LayerAnalysis) -> str:
    """One of `KINDS`, the first four as in the paper."""
    if layer.algorithm == "block_fusion":
        return "fused block"
    if not layer.flops or not layer.shape.startswith("n"):
        return "other"
    spec = ConvSpec.parse(layer.shape)
    if spec.is_depthwise:
        return DEPTHWISE
    if spec.groups > 1:
        return "grouped"
    if spec.taps > 1:
        return "full"
    return "fully connected" if spec.h * spec.w == 1 else "pointwise"


def _beside_gpus(records: Sequence[Record], where: str) -> Table:
    names = [gpu.name for gpu in GPUS]
    table = Table(f"Computational efficiency beside GPUs, {where}", ("<network", "here", "attainable here", *names))
    known = [record for record in records if record["published"]]
    for record in known:
        theirs = record["published"]
        cells = [record["model"], percent(record["profiled_efficiency"]), percent(record["waterline"])]
        table.rows.append([*cells, *(percent(theirs[name]) for name in names)])
    table.notes += _order(known, names)
    return table


def _order(records: Sequence[Record], gpus: Sequence[str]) -> list[str]:
    """Whether the networks are in the same order here and there, and why not at the same height."""

    def ranked(efficiency: Callable[[Record], float]) -> list[str]:
        return [record["model"] for record in sorted(records, key=efficiency, reverse=True)]

    def published(gpu: str) -> Callable[[Record], float]:
        return lambda record: float(record["published"][gpu])

    if len(records) < 2:
        return []
    theirs = {gpu: ranked(published(gpu)) for gpu in gpus}

    def verdict(here: Sequence[str]) -> str:
        same = [gpu for gpu, order in theirs.items() if order == list(here)]
        return f"the same as on {' and '.join(same)}" if same else "not theirs"

    here = ranked(lambda record: record["profiled_efficiency"])
    executed = ranked(lambda record: record["effective_efficiency"])
    lowest = theirs[gpus[0]][-1]
    notes = [
        f"Order here: {', '.join(here)}; it is {verdict(here)}. {lowest}, a network of depthwise layers, is the lowest "
        f"{'here too' if here[-1] == lowest else 'there, though not here'}. Levels differ: tensor cores do many more "
        "operations for each byte of memory than this machine, so that layers of low intensity fall further below "
        "their peak. Ours is also float32 and a small batch."
    ]
    if executed != here:
        notes.append(
            f"By effective efficiency, without what Winograd's algorithm saves: {', '.join(executed)}; it is "
            f"{verdict(executed)}."
        )
    return notes


# ---- the analysis of a record ---------------------------------------------------------------------------------------
def analysis_of(record: Record) -> Analysis:
    """The analysis that a record was made from, without phases, reasons and alternatives."""
    peak = record["peak_flops_per_s"]
    layers = tuple(_layer(values, peak) for values in _rows(record["layers"]))
    blocks = []
    for number, values in enumerate(_rows(record["blocks"])):
        members = tuple(i for i, layer in enumerate(layers) if layer.block == number)
        blocks.append(
            BlockAnalysis(
                **{name: values[name] for name in BLOCK_FIELDS},
                layers=members,
                flops=sum(layers[i].flops for i in members),
                time_ns=sum(layers[i].time_ns for i in members),
                peak_flops_per_s=peak,
                executed_flops=sum(layers[i].executed_flops for i in members),
                causes=Causes.sum(layers[i].causes for i in members),
            )
        )
    return Analysis(
        network=record["model"],
        machine=record["machine"]["name"],
        batch=record["batch"],
        threads=record["threads"],
        is_measured=True,
        peak_flops_per_s=peak,
        bytes_per_s=record["bytes_per_s"],
        time_ns=record["profiled_ms"] * 1e6,
        layers=layers,
        blocks=tuple(blocks),
    )


def _rows(columns: Mapping[str, list]) -> list[dict]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _layer(values: Mapping, peak_flops_per_s: float) -> LayerAnalysis:
    time_ns, arithmetic, memory = values["time_ns"], values["arithmetic_ns"], values["memory_ns"]
    return LayerAnalysis(
        **{name: values[name] for name in LAYER_FIELDS},
        predicted_ns=values["predicted_ns"],
        peak_flops_per_s=peak_flops_per_s,
        causes=Causes(arithmetic, memory, time_ns - arithmetic - memory),
    )


TABLES: dict[str, Callable[[Sequence[Record]], Table | list[Table]]] = {efficiency.PROTOCOL: networks}
