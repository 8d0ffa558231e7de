"""The convolutions of a network by batch: ours, ours without fast algorithms, and ONNX Runtime.

What is measured is what the paper measures: the convolutions alone, each engine's by its own profiler, without pooling,
classifier and changes of layout. The engines take turns (`bench.timing`); a network's weights and activations are all
in memory at once, so batches that do not fit are left out, and that is said.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

import waterline
from waterline import models
from waterline.bench import ours, peers, records
from waterline.bench.comparison import AGREEMENT, difference
from waterline.bench.engine import Task
from waterline.bench.experiments import Listener
from waterline.bench.experiments.winograd_paper import NETWORK, SPEED
from waterline.bench.records import Record
from waterline.bench.timing import Protocol, Timing, interleave
from waterline.bench.workload import Workload
from waterline.errors import Error, InvalidArgument
from waterline.machine import Machine
from waterline.runtime.calibration import measure_peak

PROTOCOL = "experiment winograd: speed"
DEFAULT, DIRECT, PEER = "waterline", "waterline, direct", "onnxruntime"
FAST = ("winograd", "fft")  # algorithms that do fewer operations than the direct one
PEERS_CONVOLUTIONS = ("Conv", "FusedConv")
_PEAK_S = 0.005
_MEMINFO = "/proc/meminfo"


@dataclass
class Variant:
    """One engine on one batch.

    Attributes:
        run: one inference, with the profiler on.
        times_ns: after the last run: what the convolutions took in each run.
        outputs: one inference: a list of arrays.
    """

    engine: str
    version: str
    run: Callable[[], object]
    times_ns: Callable[[], list[float]]
    outputs: Callable[[], Any]
    algorithms: Mapping[str, int]


def measure(
    machine: Machine,
    network: str,
    batches: Sequence[int],
    threads: int,
    protocol: Protocol,
    listener: Listener,
    image_size: int | None = None,
) -> Iterator[list[Record]]:
    """The records of one batch after the other: ours, ours direct, and ONNX Runtime where it is installed.

    Raises:
        InvalidArgument: no such network in the zoo.
        Error: results disagree.
    """
    convolutions = models.convolutions(network, image_size)
    names = {name for name, _ in convolutions}
    workload = Workload.named(network, image_size)
    direct = [name for name in waterline.algorithms() if name not in FAST]
    nets: dict[str, Any] = {}
    for variant, options in (
        (DEFAULT, {"block_fusion": False}),
        (DIRECT, {"algorithms": direct, "block_fusion": False}),
    ):
        listener.show(f"{network}: compiling {variant}")
        nets[variant] = ours.compiled(Task(workload.model, {}, threads), options)
    for batch in batches:
        needed, free = memory_bytes(workload, batch, len(nets) + 1), available_bytes()
        if free is not None and needed > free:
            listener.say(f"batch {batch} is left out: it needs about {needed >> 20} MiB, {free >> 20} MiB are free")
            continue
        inputs = workload.inputs(batch)
        variants = {}
        for variant, net in nets.items():
            listener.show(f"{network}, batch {batch}: preparing {variant}")
            variants[variant] = _ours(net, inputs, names)
        listener.show(f"{network}, batch {batch}: preparing {PEER}")
        try:
            variants[PEER] = _peer(Task(workload.model, inputs, threads))
        except InvalidArgument as reason:
            listener.say(f"{PEER} is left out: {reason.message}")
        flops = batch * sum(spec.flops for _, spec in convolutions)
        labels = {"model": network, "batch": batch, "threads": threads, "convolutions": len(convolutions)}
        labels["image_size"] = models.default_image_size(network) if image_size is None else image_size
        yield _compare(variants, machine, flops, labels, protocol, listener)


def memory_bytes(workload: Workload, batch: int, engines: int) -> int:
    """About what so many engines need for a batch: the two largest tensors and the weights, and half as much again;
    and the model twice, as it is and as the bytes that ONNX Runtime reads."""
    graph = workload.graph(batch)
    sizes = sorted(int(np.prod(graph.shapes[node.output], dtype=np.int64)) for node in graph.nodes)
    weights = sum(value.size for value in graph.constants.values())
    return int(4 * (engines * 1.5 * (sum(sizes[-2:]) + weights) + 2 * weights))


def available_bytes(path: str = _MEMINFO) -> int | None:
    """Of memory, as Linux estimates it; None where it does not say."""
    try:
        with open(path, encoding="ascii") as file:
            return next((int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:")), None)
    except OSError:
        return None


def _ours(net: Any, inputs: Mapping[str, np.ndarray], names: Collection[str]) -> Variant:
    arrays = list(inputs.values())
    times: list[float] = []
    engine = ours.engine_of(net, inputs)  # compiles the kernels
    used = Counter(step.kind for step in net.plan.steps if step.name in names)

    def run() -> None:
        report = net.profile(*arrays, seconds=1e-9)  # one inference is the least
        rows = {row.name: row.time_ns for row in report.rows}
        if missing := [name for name in names if name not in rows]:
            raise Error(f"the profile has no row for the convolution {missing[0]!r}", "please report it")
        times.append(sum(rows[name] for name in names))

    return Variant(engine.name, engine.version, run, lambda: times, engine.run, used)


def _peer(task: Task) -> Variant:
    meter = peers.meter(PEER, task, PEERS_CONVOLUTIONS)
    assert meter is not None, "ONNX Runtime has a profiler"
    return Variant(PEER, metadata.version(PEER), meter.run, meter.kernel_ns, meter.run, {})


def _compare(
    variants: Mapping[str, Variant],
    machine: Machine,
    flops: int,
    labels: Record,
    protocol: Protocol,
    listener: Listener,
) -> list[Record]:
    peaks: list[float] = []
    threads, what = labels["threads"], f"{labels['model']}, batch {labels['batch']}"
    interleave(
        {name: variant.run for name, variant in variants.items()},
        protocol,
        each_round=lambda: peaks.append(measure_peak(machine, _PEAK_S, threads)),
        on_round=lambda rounds, share: listener.show(f"{what}: {rounds} rounds, {100 * share:.0f} %"),
    )
    # The first run still touches memory for the first time.
    timings = {name: Timing(name, [[time] for time in variant.times_ns()[1:]]) for name, variant in variants.items()}
    differences = _differences(variants)
    common = records.environment(machine, {variant.engine: variant.version for variant in variants.values()})
    published = SPEED.get(labels["batch"]) if labels["model"] == NETWORK else None
    found = []
    for name, variant in variants.items():
        record = records.measurement(
            timings[name],
            flops=flops,
            peak_flops_per_s=statistics.median(peaks),
            protocol=PROTOCOL,
            **labels,
            engine=variant.engine,
            variant=name,
            dtype="float32",
            algorithms=dict(variant.algorithms),
        )
        record["ratio_of_medians"] = timings[name].median_ns / timings[DEFAULT].median_ns
        record["disagreement"] = differences[name]
        record["published"] = None if published is None else {**vars(published), "speedup": published.speedup}
        found.append({**common, **record})
    return found


def _differences(variants: Mapping[str, Variant]) -> dict[str, float]:
    """Variant -> how far its outputs are from ours, as a share of the largest. Raises Error: too far."""
    expected = [np.array(value) for value in variants[DEFAULT].outputs()]
    found = {}
    for name, variant in variants.items():
        found[name] = difference([np.asarray(value) for value in variant.outputs()], expected)
        if not found[name] <= AGREEMENT:
            raise Error(
                f"{name} and {DEFAULT} disagree by {found[name]:.2g} of the largest output",
                "one of them computes something else: `waterline check` tells whether it is this one",
            )
    return found
