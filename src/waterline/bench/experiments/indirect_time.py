"""One layer by `indirect` (or `direct_gemm`) against im2col and GEMM, on the same register tile.

The protocol is that of the paper's author: packed weights, indirection buffers and outputs are replicated until they
exceed the last-level cache, and taken in turn; the input is in the nearest caches that hold it; im2col is timed with
its product, and left out where a 1x1 filter of stride 1 needs none; building the indirection buffer and packing weights
are not timed. Its workspace is one for all copies, as one would allocate it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from waterline.algorithms import by_name
from waterline.algorithms.blocking import GemmConfig
from waterline.bench import records
from waterline.bench.comparison import AGREEMENT, difference
from waterline.bench.experiments import Listener
from waterline.bench.experiments.one_layer import LayerRun, Tensors, as_run, in_rounds, views_of
from waterline.bench.records import Record
from waterline.bench.timing import Protocol, Ratio
from waterline.codegen.cpu.gemm import GemmKernel
from waterline.errors import Error
from waterline.machine import Machine
from waterline.planner.choice import choose
from waterline.spec import ConvSpec

PROTOCOL = "experiment indirect: time"
OURS, INDIRECT, SAME_TILE, OWN_TILE = "ours", "indirect", "im2col", "im2col, own blocking"
COLD, WARM = "cold", "warm"
# A cache is exceeded by so many times its share: reads fell to the memory's rate between one and two.
SHARES = 2
MOST_COPIES = 1024  # of very small layers: each has calls of its own


@dataclass(frozen=True)
class NetworkLayer:
    """A layer where it occurs first; `kind` is its class."""

    network: str
    name: str
    spec: ConvSpec
    kind: str


@dataclass(frozen=True)
class Way:
    """How a layer is computed."""

    algorithm: str
    config: GemmConfig


def ways(spec: ConvSpec, machine: Machine) -> dict[str, Way]:
    """Variant -> how it computes `spec` (as a network runs it), ours first.

    All but `OWN_TILE` have one register tile and one order of blocks: those that the planner takes for our algorithm.
    """
    algorithm = "direct_gemm" if spec.is_pointwise else "indirect"
    config = _planned(spec, algorithm, machine)
    depth = spec.taps * spec.c
    same = replace(config, chunk_elems=dividing_chunk(depth, config.chunk_elems, config.unroll))
    own = _planned(spec, "im2col", machine)
    if spec.is_pointwise:
        # The rows of the product are the input itself, so the baseline is a GEMM without a copy.
        found = {OURS: Way(algorithm, config), SAME_TILE: Way("direct_gemm", same), INDIRECT: Way("indirect", config)}
        own_way = Way("direct_gemm", own)
    else:
        found = {OURS: Way(algorithm, config), SAME_TILE: Way("im2col", same)}
        own_way = Way("im2col", own)
    if own != same:
        found[OWN_TILE] = own_way
    return found


def dividing_chunk(depth: int, most: int, unroll: int) -> int:
    """The longest chunk that divides the depth evenly, as a product without a table needs it; 0: not in chunks."""
    if not most:
        return 0
    chunks = [chunk for chunk in range(1, min(most, depth) + 1) if depth % chunk == 0]
    whole = [chunk for chunk in chunks if chunk % unroll == 0]
    return max(whole or chunks)


def _planned(spec: ConvSpec, algorithm: str, machine: Machine) -> Any:
    return choose(spec, machine, (algorithm,)).config


def copies_for(spec: ConvSpec, machine: Machine) -> int:
    """How many copies of weights, indirection buffer and output exceed the last-level cache."""
    tables = by_name("indirect").pack_tables(spec, _planned(spec, "indirect", machine), views_of(spec), machine)
    each = spec.weight_bytes + spec.output_bytes + tables["table"].nbytes
    cache = machine.l3_share_bytes or machine.l2_bytes
    return min(MOST_COPIES, 1 + SHARES * cache // each)


def measure(
    layer: NetworkLayer,
    machine: Machine,
    threads: int,
    protocol: Protocol,
    listener: Listener,
    what: str,
    copies: int | None = None,
    *,
    with_warm: bool = False,
) -> Iterator[list[Record]]:
    """The records of a layer: one a variant, of cold data and then of warm.

    Args:
        what: the layer in words, for the listener.
        copies: None: `copies_for`.

    Raises:
        Error: results disagree, or the variants are not of one micro-kernel.
    """
    machine = machine.for_weights(layer.spec.weight_bytes)
    spec = as_run(layer.spec)
    count = copies or copies_for(spec, machine)
    listener.show(f"{what}: preparing {count} copies")
    tensors = Tensors(layer.spec, count)
    for data in (COLD, WARM) if with_warm else (COLD,):
        runs = {
            name: LayerRun(tensors, by_name(way.algorithm), way.config, machine, threads, is_repeated=data == WARM)
            for name, way in ways(spec, machine).items()
        }
        check_one_kernel(runs)
        timings, peaks = in_rounds(
            {name: run.calls() for name, run in runs.items()}, machine, threads, protocol, f"{what}, {data}", listener
        )
        differences = _differences(runs)
        found = []
        for name, run in runs.items():
            record = records.measurement(
                timings[name],
                flops=layer.spec.flops,
                peak_flops_per_s=statistics.median(peaks),
                protocol=PROTOCOL,
                model=layer.spec.id,
                network=layer.network,
                layer=layer.name,
                engine="waterline",
                dtype="float32",
                batch=layer.spec.n,
                threads=threads,
                variant=name,
                data=data,
                algorithm=run.algorithm.name,
                config=vars(run.config),
                tile=vars(_product_kernel(run).tile),
                as_run=spec.id,
                copies=1 if data == WARM else count,
            )
            record["class"] = layer.kind
            record["ratio"] = vars(Ratio.between(timings[name], timings[OURS]))
            record["ratio_of_medians"] = timings[name].median_ns / timings[OURS].median_ns
            record["phases_ms"] = {phase: statistics.median(times) / 1e6 for phase, times in run.phases_ns.items()}
            record["disagreement"] = differences[name]
            found.append(record)
        yield found


def check_one_kernel(runs: dict[str, LayerRun]) -> None:
    """Raises Error: a variant that claims our micro-kernel has another one, or another order of blocks."""
    ours = micro_kernel(runs[OURS])
    for name, run in runs.items():
        if name != OWN_TILE and micro_kernel(run) != ours:
            raise Error(
                f"{name} of {run.tensors.spec.id} has the micro-kernel {micro_kernel(run)}, ours {ours}",
                "please report it: the comparison is of one micro-kernel",
            )
    if runs[OURS].algorithm.name == "direct_gemm" and runs[SAME_TILE].kernels != runs[OURS].kernels:
        raise Error(f"the baseline's GEMM of {runs[OURS].tensors.spec.id} is not ours", "please report it")


def micro_kernel(run: LayerRun) -> tuple[object, ...]:
    """What both products have in common: the register tile, the columns, the order of blocks of rows and panels."""
    kernel = _product_kernel(run)
    return kernel.tile, kernel.columns, kernel.block_tiles, kernel.panel_outer, kernel.epilogue


def _product_kernel(run: LayerRun) -> GemmKernel:
    """The matrix product is the last call of each of these algorithms."""
    kernel = run.kernels[-1]
    assert isinstance(kernel, GemmKernel)
    return kernel


def _differences(runs: dict[str, LayerRun]) -> dict[str, float]:
    """Variant -> how far its output is from ours, as a share of the largest. Raises Error: too far."""
    expected = np.array(runs[OURS].output())
    found = {}
    for name, run in runs.items():
        found[name] = difference([run.output()], [expected])
        if not found[name] <= AGREEMENT:
            raise Error(
                f"{name} and {OURS} disagree on {run.tensors.spec.id} by {found[name]:.2g} of the largest output",
                "one of them computes something else: `waterline check` tells whether it is this one",
            )
    return found
