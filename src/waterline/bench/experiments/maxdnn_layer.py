"""The computational efficiency of one convolution at one batch: the kernel alone, without changes of layout.

Ours is what the planner takes of the direct algorithms (no Winograd, no FFT), on NHWC memory; ONNX Runtime's is its own
profiler's time of the convolution, in its own layout. Both take turns in rounds, and each round measures the peak
first: efficiencies are those of rounds, so that a slow second slows the kernel and the peak alike. The loop of the
kernel's tile takes its turn, too, alone and on data in the first-level cache: what it loses is the processor's, what
the kernel loses beside it is ours.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from waterline.bench import peers, records
from waterline.bench.comparison import AGREEMENT, difference
from waterline.bench.engine import Meter, Task
from waterline.bench.experiments import Listener
from waterline.bench.experiments.maxdnn_paper import published
from waterline.bench.experiments.one_layer import Calls, LayerRun, Tensors, as_run, efficiencies, in_rounds
from waterline.bench.records import Record
from waterline.bench.timing import Protocol, Timing, quantile
from waterline.bench.workload import Workload
from waterline.codegen.cpu.gemm import Tile
from waterline.codegen.cpu.tile_probe import TileProbe
from waterline.errors import Error
from waterline.machine import Machine
from waterline.planner.choice import choose
from waterline.runtime.bound import level_of, moving_ns
from waterline.spec import ConvSpec

PROTOCOL = "experiment maxdnn"
OURS, PEER, TILE = "waterline", "onnxruntime", "tile"
ALGORITHMS = ("indirect", "direct_gemm")
PEERS_CONVOLUTIONS = ("Conv", "FusedConv")


@dataclass(frozen=True)
class Layer:
    """A convolution of a network; `names` are those of all layers of the network that are the same. `spec` has n 1."""

    network: str
    names: tuple[str, ...]
    spec: ConvSpec


def measure(
    layer: Layer,
    batch: int,
    machine: Machine,
    threads: int,
    protocol: Protocol,
    listener: Listener,
    *,
    limit_bytes: int | None = None,
    with_peer: bool = False,
) -> list[Record]:
    """A record of ours and one of ONNX Runtime; what needs more memory than the limit is left out, and that is said.

    Raises:
        Error: results disagree.
    """
    spec = layer.spec.with_batch(batch)
    what = f"{layer.network} {layer.names[0]}, batch {batch}"
    own_bytes, both_bytes = memory_bytes(spec)
    if limit_bytes is not None and own_bytes > limit_bytes:
        listener.say(f"{what} is left out: it needs {own_bytes >> 20} MiB, the limit is {limit_bytes >> 20}")
        return []
    if with_peer and limit_bytes is not None and both_bytes > limit_bytes:
        need = f"together they need {both_bytes >> 20} MiB, the limit is {limit_bytes >> 20}"
        listener.say(f"{what}: ONNX Runtime is left out, {need}")
        with_peer = False
    listener.show(f"{what}: preparing")
    workload = Workload.layer(layer.spec)
    tensors = Tensors(spec, weight=workload.graph(1).constants["weight"])
    choice = choose(tensors.spec, machine, ALGORITHMS)
    run = LayerRun(tensors, choice.algorithm, choice.config, machine, threads)
    tile = TileLoop(choice.config.tile, machine)
    calls = {TILE: tile.calls(), OURS: run.calls()}
    meter = None
    if with_peer:
        meter = peers.meter(PEER, Task(workload.model, {"input": tensors.nchw()}, threads), PEERS_CONVOLUTIONS)
        assert meter is not None, "ONNX Runtime has a profiler"
        calls[PEER] = Calls(meter.run, meter.kernel_ns)
    timings, peaks = in_rounds(calls, machine, threads, protocol, what, listener)
    peak = statistics.median(peaks)
    labels = _labels(layer, spec, threads) | _bound(spec, peak, machine, threads)
    ours = _record(timings[OURS], spec, peaks, labels | {"engine": OURS, "variant": OURS})
    ours |= {"version": metadata.version("waterline"), "algorithm": choice.algorithm.name}
    ours |= {"config": vars(choice.config), "as_run": tensors.spec.id}
    alone = efficiencies(timings[TILE], tile.flops, [each / threads for each in peaks])
    whole = efficiencies(timings[OURS], spec.flops, peaks)
    ours["tile_efficiency"] = statistics.median(alone)
    ours["of_tile"] = statistics.median(w / a for w, a in zip(whole, alone, strict=True))
    if meter is None:
        return [ours]
    peer = _record(timings[PEER], spec, peaks, labels | {"engine": PEER, "variant": PEER})
    peer |= {"version": metadata.version(PEER), "disagreement": _disagreement(run, meter)}
    peer["ratio_of_medians"] = timings[PEER].median_ns / timings[OURS].median_ns
    return [ours, peer]


class TileLoop:
    """The loop of a tile on data in the first-level cache, about a millisecond of it, on one core."""

    def __init__(self, tile: Tile, machine: Machine) -> None:
        self._probe = TileProbe(tile, machine)
        self._turns = max(1, int(1e-3 * machine.peak() / self._probe.flops_per_turn))
        self.flops = self._turns * self._probe.flops_per_turn
        self._samples_ns: list[float] = []

    def run(self) -> None:
        start = time.perf_counter_ns()
        self._probe.run(self._turns)
        self._samples_ns.append(float(time.perf_counter_ns() - start))

    def calls(self) -> Calls:
        """For `in_rounds`."""
        return Calls(self.run, lambda: self._samples_ns)


def memory_bytes(spec: ConvSpec) -> tuple[int, int]:
    """About what a layer needs: by us (input, output, filters as they are and packed), and with ONNX Runtime as well.

    That has the input as it is called with, both tensors in its own layout, and the output that it returns.
    """
    run = as_run(spec)
    own = run.input_bytes + spec.output_bytes + 2 * spec.weight_bytes
    return own, own + 2 * spec.input_bytes + 2 * spec.output_bytes + 3 * spec.weight_bytes


def _labels(layer: Layer, spec: ConvSpec, threads: int) -> Record:
    paper = published(layer.network, (spec.c, spec.p, spec.k, spec.r))
    return {
        "protocol": PROTOCOL,
        "model": layer.spec.id,
        "network": layer.network,
        "layer": layer.names[0],
        "layers": list(layer.names),
        "dtype": "float32",
        "batch": spec.n,
        "threads": threads,
        "published": None if paper is None else vars(paper) | {"shape": list(paper.shape)},
    }


def _bound(spec: ConvSpec, peak: float, machine: Machine, threads: int) -> Record:
    """The roofline: the time that no kernel can beat, and which of the two limits it."""
    arithmetic_ns, memory_ns = 1e9 * spec.flops / peak, moving_ns(spec.least_bytes, machine, threads)
    bound_ns = max(arithmetic_ns, memory_ns)
    return {
        "least_bytes": spec.least_bytes,
        "bytes_come_from": level_of(spec.least_bytes, machine),
        "bound_ms": bound_ns / 1e6,
        "is_memory_bound": memory_ns > arithmetic_ns,
        "attainable_efficiency": arithmetic_ns / bound_ns,
    }


def _record(timing: Timing, spec: ConvSpec, peaks: Sequence[float], labels: Record) -> Record:
    record: dict[str, Any] = records.measurement(
        timing, flops=spec.flops, peak_flops_per_s=statistics.median(peaks), **labels
    )
    each = efficiencies(timing, spec.flops, peaks)
    record["computational_efficiency"] = statistics.median(each)
    record["efficiency_p10"], record["efficiency_p90"] = quantile(each, 0.1), quantile(each, 0.9)
    return record


def _disagreement(run: LayerRun, meter: Meter) -> float:
    """How far the first and the last image of ONNX Runtime's output are from ours, as a share of the largest."""
    outputs: Any = meter.run()
    ours, theirs = run.output(), np.asarray(outputs[0])
    found = max(difference([theirs[n]], [ours[n].transpose(2, 0, 1)]) for n in (0, -1))
    if not found <= AGREEMENT:
        raise Error(
            f"{PEER} and {OURS} disagree on {run.tensors.asked.id} by {found:.2g} of the largest output",
            "one of them computes something else: `waterline check` tells whether it is this one",
        )
    return found
