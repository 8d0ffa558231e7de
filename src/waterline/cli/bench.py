"""`waterline bench`: latency of networks or single layers, interleaved with other engines in one run.

On a GPU without other engines; those are in the suite: `waterline bench --device cuda --suite gpu`
(`waterline.cli.gpu_suite`).
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from waterline.api import environment
from waterline.api.compiling import make_engine
from waterline.api.options import CPU
from waterline.bench import ours, peers, records
from waterline.bench.comparison import compare, measure_kernels
from waterline.bench.engine import CannotServe, Engine, Meter, Task
from waterline.bench.gpu.suite import SECONDS as SUITE_SECONDS
from waterline.bench.records import Record
from waterline.bench.timing import Protocol
from waterline.bench.workload import Workload, flops
from waterline.cli import gpu_suite
from waterline.cli.common import (
    MODEL_HELP,
    Progress,
    add_dtype,
    add_image_size,
    add_tuned,
    algorithm_names,
    check_writable,
    layer_specs,
    list_of,
    positive,
    say_tuned,
    seconds,
    tuned_options,
    unique,
    write_json,
)
from waterline.errors import InvalidArgument, Refused
from waterline.machine import Rates
from waterline.report import tables

SECONDS = 3.0  # of a comparison


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="*", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--conv", nargs="+", metavar="SPEC", help="instead of models: ids of layers, or files of them")
    parser.add_argument("--algorithm", type=list_of(str), metavar="A,..", help="algorithms to compare (with --conv)")
    parser.add_argument("--vs", type=list_of(str), default=[], metavar="PEER,..", help=f"of {', '.join(peers.PEERS)}")
    parser.add_argument("--batch", type=list_of(positive), metavar="N,..", help="default: 1, or what a layer's id says")
    parser.add_argument("--threads", type=list_of(positive), metavar="N,..", help="default: the physical cores")
    parser.add_argument(
        "--seconds", type=seconds, metavar="S", help=f"for each comparison (default: 3), or a suite ({SUITE_SECONDS:g})"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the records as one list (`-`: to stdout, without the table)"
    )
    parser.add_argument("--append", metavar="FILE", help="add the records to a file of JSON lines")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    gpu_suite.configure(parser)
    add_image_size(parser)
    add_dtype(parser)
    add_tuned(parser)


def execute(arguments: argparse.Namespace) -> int:
    if gpu_suite.is_asked_for(arguments):
        return gpu_suite.execute(arguments)
    if bool(arguments.model) == bool(arguments.conv):
        raise InvalidArgument("give either MODEL... or --conv SPEC...", "`waterline bench --help` shows both")
    if arguments.algorithm and not arguments.conv:
        raise InvalidArgument("--algorithm compares the ways to compute a layer", "give layers: --conv SPEC...")
    is_on_cpu = arguments.device == CPU
    algorithms = algorithm_names(arguments.algorithm) if is_on_cpu else unique(arguments.algorithm or [])
    vs = unique([peers.check_name(name) for name in arguments.vs])
    check_writable(arguments.json)
    check_writable(arguments.append)

    progress = Progress()
    machine: Rates = environment.machine()
    if not is_on_cpu:
        machine = make_engine(arguments.device, arguments.dtype, arguments.threads).rates
    threads = unique(arguments.threads or [machine.cores])
    for count in threads:
        if count > machine.cores:
            raise InvalidArgument(
                f"{count} threads on {machine.cores} physical cores would wait for each other",
                f"use at most {machine.cores}",
            )
    measured_s = arguments.seconds or SECONDS
    protocol = Protocol(seconds=measured_s)
    found: list[Record] = []
    for build, batches in _workloads(arguments):
        workload = build()
        for batch, count in itertools.product(batches, threads):
            inputs = workload.inputs(batch)
            task = Task(workload.model, inputs, count, arguments.dtype, arguments.device)
            options = tuned_options(arguments)
            engines, labels, meters = _engines(
                task, vs, algorithms, options, progress, workload.name, bool(arguments.conv)
            )
            versions = {engine.name: engine.version for engine in engines.values()}
            work = flops(workload.graph(batch))
            measured = compare(
                engines,
                machine,
                flops=work,
                threads=count,
                labels={"model": workload.name, "dtype": arguments.dtype, "batch": batch},
                variant_labels=labels,
                protocol=protocol,
                on_round=_shower(progress, f"{workload.name}, batch {batch}, {count} threads"),
            )
            if meters:
                kernels = measure_kernels(
                    meters,
                    machine,
                    flops=work,
                    threads=count,
                    protocol=Protocol(seconds=measured_s / 3),
                    on_round=_shower(progress, f"{workload.name}, kernels"),
                )
                for variant, record in zip(engines, measured, strict=True):
                    record |= kernels.get(variant, {})
            common = records.environment(machine, versions)
            measured = [{**common, **record} for record in measured]
            if arguments.append:
                records.append(Path(arguments.append), measured)
            found += measured
    progress.clear()
    if arguments.json:
        write_json(arguments.json, found)
    if arguments.json != "-":
        table = tables.comparison(found)
        if arguments.markdown:
            print(table.to_markdown())
        else:
            table.print(sys.stdout)
    return 0


def _workloads(arguments: argparse.Namespace) -> list[tuple[Callable[[], Workload], Sequence[int]]]:
    """How to build each workload (one at a time: a network may be half a gigabyte), and its batches."""
    if not arguments.conv:
        build = partial(Workload.named, image_size=arguments.image_size)
        return [(partial(build, name), arguments.batch or [1]) for name in unique(arguments.model)]
    return [(partial(Workload.layer, spec), arguments.batch or [spec.n]) for spec in layer_specs(arguments.conv)]


def _engines(
    task: Task,
    vs: Sequence[str],
    algorithms: Sequence[str],
    options: Mapping[str, Any],
    progress: Progress,
    name: str,
    is_layer: bool,
) -> tuple[dict[str, Engine], dict[str, dict[str, Any]], dict[str, Meter]]:
    """Variant -> engine, ours first; the labels that tell our variants apart; and for a layer the meters of kernels."""
    engines: dict[str, Engine] = {}
    labels: dict[str, dict[str, Any]] = {}
    meters: dict[str, Meter] = {}
    for algorithm in algorithms or (None,):
        variant = f"waterline ({algorithm})" if algorithm else "waterline"
        try:
            net = ours.compiled(task, {**options, "algorithms": [algorithm] if algorithm else None})
        except Refused as refusal:
            progress.say(f"{name}: {algorithm} is left out: {refusal.message}")
            continue
        if options and not is_layer:
            say_tuned(progress, net.plan, name)
        engines[variant] = ours.engine_of(net, task.inputs)
        labels[variant] = {"tuned": "tune" in options}
        if is_layer:
            used = next(step.algorithm for step in net.plan.steps if step.spec is not None)
            labels[variant]["algorithm"] = used
            meters[variant] = ours.meter_of(net, task.inputs)
    if not engines:
        raise Refused(f"{name}: no algorithm that was asked for serves this layer", "leave --algorithm out")
    for peer in vs:
        progress.show(f"{name}: preparing {peer}")
        try:
            engines[peer] = peers.prepare(peer, task)
        except CannotServe as reason:
            progress.say(f"{name}: {peer} is left out: {reason.message}")
            continue
        if is_layer and (meter := peers.meter(peer, task)) is not None:
            meters[peer] = meter
    return engines, labels, meters


def _shower(progress: Progress, what: str) -> Callable[[int, float], None]:
    return lambda rounds, share: progress.show(f"{what}: {rounds} rounds, {100 * share:.0f} %")
