"""From the records of an experiment to its figure: shares of peak by layer, or by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from waterline.bench.experiments import indirect_time, maxdnn_layer, winograd_speed
from waterline.bench.experiments.indirect_paper import CLASSES
from waterline.bench.records import Record
from waterline.report.tables import short_shape


@dataclass(frozen=True)
class Shares:
    """Shares of peak, of several series at several places.

    Attributes:
        name: of letters and hyphens. title: above the figure.
        places: what stands below a group of bars, or the batches. is_by_batch: which of the two.
        series: name -> a share of each place, None where there is none. marks: the same, of other machines.
        machine, threads, commit: where the records are from.
    """

    name: str
    title: str
    places: tuple[str, ...]
    series: Mapping[str, tuple[float | None, ...]]
    machine: str
    threads: int
    commit: str | None
    is_by_batch: bool = False
    marks: Mapping[str, tuple[float | None, ...]] | None = None


def shares(records: Sequence[Record]) -> Shares | None:
    """What the figure of an experiment shows, for the first number of threads; None where nothing was timed."""
    for protocol, convert in _FIGURES.items():
        found = [record for record in records if record["protocol"] == protocol]
        if found:
            return convert([record for record in found if record["threads"] == found[0]["threads"]])
    return None


def maxdnn(records: Sequence[Record]) -> Shares:
    """Every layer, a bar a batch, and the paper's marks."""
    batches = sorted({record["batch"] for record in records})
    layers = dict.fromkeys((record["network"], record["model"]) for record in records)
    ours = {
        (record["network"], record["model"], record["batch"]): record["computational_efficiency"]
        for record in records
        if record["variant"] == maxdnn_layer.OURS
    }
    published = {(record["network"], record["model"]): record["published"] for record in records}
    names = {(r["network"], r["model"]): (r["published"] or {"layer": r["layer"]})["layer"] for r in records}
    marks = {
        name: tuple(published[layer][field] if published[layer] else None for layer in layers)
        for name, field in (("maxDNN on a GTX 980", "maxdnn"), ("cuDNN v2 on it", "cudnn"))
    }
    return _shares(
        records,
        "experiment-maxdnn",
        "Computational efficiency of every convolution, by batch",
        tuple(f"{layer[0]} {names[layer]}" for layer in layers),
        {f"batch {batch}": tuple(ours.get((*layer, batch)) for layer in layers) for batch in batches},
        marks if any(published.values()) else None,
    )


def indirect(records: Sequence[Record]) -> Shares:
    """Every layer by class, ours beside im2col or GEMM on the same tile. Of cold data."""
    cold = [record for record in records if record["data"] == indirect_time.COLD]
    ordered = sorted(cold, key=lambda record: CLASSES.index(record["class"]))
    layers = dict.fromkeys(record["model"] for record in ordered)
    found = {(record["model"], record["variant"]): record["computational_efficiency"] for record in cold}
    variants = {
        "ours (direct_gemm or indirect)": indirect_time.OURS,
        "im2col and GEMM, same tile": indirect_time.SAME_TILE,
        "indirect, forced": indirect_time.INDIRECT,
    }
    series = {label: tuple(found.get((layer, name)) for layer in layers) for label, name in variants.items()}
    return _shares(
        cold,
        "experiment-indirect",
        "Indirect convolution against im2col on the same register tile",
        tuple(short_shape(layer) for layer in layers),
        {label: values for label, values in series.items() if any(value is not None for value in values)},
    )


def winograd(records: Sequence[Record]) -> Shares:
    """All convolutions of a network, a series a variant."""
    batches = sorted({record["batch"] for record in records})
    found = {(record["variant"], record["batch"]): record["computational_efficiency"] for record in records}
    variants = dict.fromkeys(record["variant"] for record in records)
    return _shares(
        records,
        "experiment-winograd",
        f"{records[0]['model']}: its convolutions by batch, operations of the direct algorithm",
        tuple(map(str, batches)),
        {name: tuple(found.get((name, batch)) for batch in batches) for name in variants},
        is_by_batch=True,
    )


def _shares(
    records: Sequence[Record],
    name: str,
    title: str,
    places: tuple[str, ...],
    series: Mapping[str, tuple[float | None, ...]],
    marks: Mapping[str, tuple[float | None, ...]] | None = None,
    *,
    is_by_batch: bool = False,
) -> Shares:
    first = records[0]
    machine, threads, commit = first["machine"]["name"], first["threads"], first["commit"]
    return Shares(name, title, places, series, machine, threads, commit, is_by_batch, marks)


# Protocol -> what its figure shows, the first of these that an experiment has records of.
_FIGURES: dict[str, Callable[[Sequence[Record]], Shares]] = {
    maxdnn_layer.PROTOCOL: maxdnn,
    indirect_time.PROTOCOL: indirect,
    winograd_speed.PROTOCOL: winograd,
}
