"""Tables of ConvFirst and ConvNeXt on equal terms: accuracy by seed, and latency in every engine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from waterline.bench.experiments import training_runs, training_speed
from waterline.bench.experiments.training_networks import PAIRS
from waterline.bench.experiments.training_speed import OURS
from waterline.bench.records import Record
from waterline.report.statistics import Interval, welch
from waterline.report.tables import Table, milliseconds, percent

ENGINES = {
    OURS: "Waterline",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "ncnn": "ncnn",
    "torch": "PyTorch",
    "inductor": "PyTorch Inductor",
}
LEAST_RUNS = 2  # for a spread


# ---- accuracy -------------------------------------------------------------------------------------------------------
def accuracy(records: Sequence[Record]) -> list[Table]:
    """One for each recipe, data and number of threads that the runs were made with."""
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(f"{record['data']} {record['threads']} {sorted(record['recipe'].items())}", []).append(record)
    return [_accuracy(found) for found in kinds.values()]


def _accuracy(records: Sequence[Record]) -> Table:
    first = records[0]
    train, validation = first["images"]
    epochs = first["recipe"]["epochs"]
    title = f"Accuracy on {validation} {first['data']}, {epochs} epoch{'s' if epochs > 1 else ''} of {train} others"
    title += f", learning rate {first['recipe']['learning_rate']:g}"
    columns = ("<network", "parameters", "mean", "deviation", "<each seed", "last weights, mean", "deviation")
    table = Table(title, (*columns, "training s"))
    for name, runs in by_network(records).items():
        averaged, last = accuracies(runs), [run["accuracy"] for run in runs]
        table.rows.append(
            (
                name,
                f"{runs[0]['parameters']:,}",
                *_mean(averaged),
                ", ".join(f"{100 * value:.1f}" for value in averaged),
                *_mean(last),
                f"{statistics.median(run['train_seconds'] for run in runs):.0f}",
            )
        )
    table.notes.append(
        "Accuracy of the average of the weights (EMA), which a run keeps, and of the last step's weights; in per cent, "
        "seeds in order; the sample's standard deviation. "
        f"One image is {100 / validation:.2f} points. Training: the median run on {first['threads']} thread"
        f"{'s' if first['threads'] > 1 else ''}, beside other work, so that it is no comparison."
    )
    table.notes += [note for note in (verdict(records), _compiled(records)) if note]
    return table


def by_network(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The runs of each network, by seed; ConvFirst first, as they were made."""
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: int(record["seed"])):
        found.setdefault(record["model"], []).append(record)
    return found


def accuracies(runs: Sequence[Record]) -> list[float]:
    """Of the weights that each run keeps: the average where it has one."""
    return [run["accuracy"] if run["ema_accuracy"] is None else run["ema_accuracy"] for run in runs]


def difference(records: Sequence[Record]) -> tuple[str, str, Interval] | None:
    """The two networks, and the first one's mean accuracy less the second one's; None without two runs of both."""
    runs = by_network(records)
    if len(runs) != len(PAIRS["digits"]) or min(map(len, runs.values())) < LEAST_RUNS:
        return None
    (name, mine), (other, theirs) = runs.items()
    return name, other, welch(accuracies(mine), accuracies(theirs))


def verdict(records: Sequence[Record]) -> str:
    """Whether the seeds tell one network from the other, in words; empty without two runs of both."""
    found = difference(records)
    if found is None:
        return ""
    name, other, interval = found
    low, high = 100 * interval.low, 100 * interval.high
    return (
        f"{name} less {other}: {100 * interval.difference:+.2f} points, {100 * interval.confidence:.0f} % interval "
        f"{low:+.2f} to {high:+.2f} (Welch, {interval.degrees_of_freedom:.1f} degrees of freedom): "
        + ("a difference" if interval.is_significant else "no difference")
        + " that these seeds can tell. The interval is of the seeds; all runs are judged by the same images."
    )


def _compiled(records: Sequence[Record]) -> str:
    compiled = [record["compiled"] for record in records]
    differing = sum(each["differing"] for each in compiled)
    share = max(each["largest_difference"] / each["largest_score"] for each in compiled)
    images = len(records) * records[0]["images"][1]
    return (
        f"Compiled by Waterline, the {len(records)} trained networks gave {differing} of {images} images another class "
        f"than PyTorch; scores differ by at most {share:.1e} of the largest."
    )


def _mean(values: Sequence[float]) -> tuple[str, str]:
    spread = f"{100 * statistics.stdev(values):.2f}" if len(values) >= LEAST_RUNS else ""
    return f"{100 * statistics.fmean(values):.2f}", spread


# ---- latency --------------------------------------------------------------------------------------------------------
def latency(records: Sequence[Record]) -> list[Table]:
    """For each pair the times of all engines, and what they are beside ConvFirst's in Waterline."""
    tables = []
    for pair in dict.fromkeys(record["pair"] for record in records):
        found = [record for record in records if record["pair"] == pair]
        tables += [_times(found), _ratios(found)]
    return tables


def _times(records: Sequence[Record]) -> Table:
    engines = engines_of(records)
    columns = ("<network", "M parameters", "MMAC", "batch", "threads", *(f"{ENGINES[each]} ms" for each in engines))
    table = Table(f"Latency of {_names(records)}", (*columns, "Waterline, of peak", "the fastest other / Waterline"))
    for (name, batch, threads), found in _groups(records, "model", "batch", "threads").items():
        by_engine = {record["engine"]: record for record in found}
        mine = by_engine[OURS]
        others = [record["ratio_of_engines"]["median"] for record in found if record["engine"] != OURS]
        table.rows.append(
            (
                name,
                f"{mine['parameters'] / 1e6:.2f}",
                f"{mine['macs'] / 1e6:.3g}" if mine["macs"] < 1e9 else f"{mine['macs'] / 1e6:.0f}",
                str(batch),
                str(threads),
                *(milliseconds(by_engine[each]["median_ms"]) if each in by_engine else "" for each in engines),
                percent(mine["computational_efficiency"]),
                f"{min(others):.2f}" if others else "",
            )
        )
    return table


def _ratios(records: Sequence[Record]) -> Table:
    """Of the second network of the pair."""
    first, second = dict.fromkeys(record["model"] for record in records)
    engines = engines_of(records)
    title = f"Time of {second} in each engine / time of {first} in Waterline"
    table = Table(title, ("batch", "threads", *(ENGINES[each] for each in engines), "the fastest other engine"))
    theirs = [record for record in records if record["model"] == second]
    for (batch, threads), found in _groups(theirs, "batch", "threads").items():
        ratios = {record["engine"]: record["ratio"]["median"] for record in found}
        others = [ratio for engine, ratio in ratios.items() if engine != OURS]
        table.rows.append(
            (
                str(batch),
                str(threads),
                *(f"{ratios[each]:.2f}" if each in ratios else "" for each in engines),
                f"{min(others):.2f}" if others else "",
            )
        )
    sizes = {record["model"]: record for record in records}
    work = sizes[second]["macs"] / sizes[first]["macs"]
    weight = sizes[second]["parameters"] / sizes[first]["parameters"]
    table.notes.append(
        f"Medians of interleaved rounds, both networks in all engines in one run. {second} has {work:.2f} times the "
        f"operations and {weight:.2f} times the parameters of {first}."
    )
    return table


def engines_of(records: Sequence[Record]) -> list[str]:
    """Those that were measured, ours first."""
    found = {record["engine"] for record in records}
    return [engine for engine in ENGINES if engine in found]


def _groups(records: Sequence[Record], *names: str) -> Mapping[tuple, list[Record]]:
    found: dict[tuple, list[Record]] = {}
    for record in records:
        found.setdefault(tuple(record[name] for name in names), []).append(record)
    return found


def _names(records: Sequence[Record]) -> str:
    return " and ".join(dict.fromkeys(record["model"] for record in records))


TABLES = {training_runs.PROTOCOL: accuracy, training_speed.PROTOCOL: latency}
