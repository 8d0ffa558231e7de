"""`waterline run`: compile a network, run it on a photograph, check the result, show outputs and latency."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from typing import Any

import numpy as np

from waterline.api.compiling import make_engine
from waterline.bench import ours, peers
from waterline.bench.comparison import compare
from waterline.bench.engine import Task
from waterline.bench.records import Record
from waterline.bench.timing import Protocol
from waterline.bench.truth import check_network
from waterline.bench.workload import Workload, flops
from waterline.cli import image
from waterline.cli.common import (
    Progress,
    add_device,
    add_engine,
    add_json,
    add_network,
    add_tuned,
    positive,
    print_json,
    say_tuned,
    seconds,
    tuned_options,
)
from waterline.errors import InvalidArgument
from waterline.report import tables

PEER = "onnxruntime"
FAILED = 1
TOP = 5


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--image", metavar="FILE", help="a photograph (default: one that comes with scikit-learn)")
    source.add_argument("--random", action="store_true", help="random data instead of an image")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="copies of the image (default: 1)")
    add_engine(parser)
    add_device(parser)
    add_tuned(parser)
    parser.add_argument("--seconds", type=seconds, default=2.0, metavar="S", help="to measure latency (default: 2)")
    parser.add_argument("--profile", action="store_true", help="show the table of layers as well")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    progress = Progress()
    workload = Workload.named(arguments.model, arguments.image_size)
    inputs = _inputs(workload, arguments)
    engine = make_engine(arguments.device, arguments.dtype, arguments.threads)
    threads = engine.threads
    task = Task(workload.model, inputs, threads, arguments.dtype, arguments.device)

    start = time.perf_counter()
    net = ours.compiled(task, tuned_options(arguments))
    compile_s = time.perf_counter() - start
    if arguments.tuned:
        say_tuned(progress, net.plan, arguments.model)
    results = ours.as_list(net(*inputs.values()))
    progress.show(f"computing {workload.name} in float64")
    checks = check_network(workload, inputs, results, net.plan_for(*inputs.values()), trials=1, target=net.target)
    is_fine = all(check.is_within for check in checks.values())

    engines = {"waterline": ours.engine_of(net, inputs)}
    if arguments.device == "cpu" and importlib.util.find_spec(PEER):
        progress.show(f"preparing {PEER}")
        engines[PEER] = peers.prepare(PEER, task)
    measured = compare(
        engines,
        engine.rates,
        flops=flops(workload.graph(arguments.batch)),
        threads=threads,
        labels={"model": workload.name, "dtype": arguments.dtype, "batch": arguments.batch},
        variant_labels={"waterline": {"tuned": arguments.tuned}},
        protocol=Protocol(seconds=arguments.seconds),
        on_round=lambda rounds, share: progress.show(f"measuring: {rounds} rounds, {100 * share:.0f} %"),
    )
    report = net.profile(*inputs.values(), seconds=arguments.seconds).to_dict() if arguments.profile else None
    progress.clear()
    outputs = {name: summary(result) for name, result in zip(checks, results, strict=True)}
    if arguments.json:
        print_json(
            {
                "model": workload.name,
                "machine": engine.rates.to_dict(),
                "compile_s": compile_s,
                "outputs": outputs,
                "check": {name: {**vars(check), "is_within": check.is_within} for name, check in checks.items()},
                "records": measured,
                **({"profile": report} if report else {}),
            }
        )
    else:
        _print(workload, arguments, compile_s, outputs, checks, measured, engine.target.name)
        if report:
            print()
            tables.per_layer(report, f"{workload.name}, layer by layer").print(sys.stdout)
    return 0 if is_fine else FAILED


def _inputs(workload: Workload, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    shapes = workload.shapes_for(arguments.batch)
    if arguments.random:
        return workload.inputs(arguments.batch)
    name, shape = next(iter(shapes.items()))
    if len(shapes) != 1 or len(shape) != 4 or shape[1] != 3:
        described = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InvalidArgument(
            f"{workload.name} does not take one image of three channels, but {described}", "pass --random"
        )
    height, width = shape[2:]
    pixels = image.from_file(arguments.image, height, width) if arguments.image else image.photograph(height, width)
    return {name: np.repeat(pixels, arguments.batch, axis=0)}


def summary(result: np.ndarray) -> dict[str, Any]:
    """Shape and range; the largest values of the first image, if the output looks like scores of classes."""
    values = np.asarray(result)
    facts: dict[str, Any] = {"shape": list(values.shape)}
    if values.size:
        facts |= {"least": float(values.min()), "mean": float(values.mean()), "largest": float(values.max())}
    if values.ndim == 2 and values.shape[0] and values.shape[1] > 1:
        best = np.argsort(-values[0])[:TOP]
        facts["top"] = [{"index": int(i), "value": float(values[0, i])} for i in best]
    return facts


def _print(
    workload: Workload,
    arguments: argparse.Namespace,
    compile_s: float,
    outputs: dict[str, dict[str, Any]],
    checks: dict[str, Any],
    measured: list[Record],
    machine: str,
) -> None:
    source = "random data" if arguments.random else arguments.image or "scikit-learn's china.jpg"
    print(f"{workload.name} on {source}, batch {arguments.batch}, {arguments.dtype}, on {machine}")
    print(f"compiled in {compile_s:.2f} s")
    for name, facts in outputs.items():
        shape = "x".join(map(str, facts["shape"]))
        if "top" in facts:
            top = ", ".join(f"{entry['index']} ({entry['value']:.4f})" for entry in facts["top"])
            print(f"{name} {shape}, largest: {top}")
        elif "mean" in facts:
            print(f"{name} {shape}, from {facts['least']:.4g} to {facts['largest']:.4g}, mean {facts['mean']:.4g}")
        else:
            print(f"{name} {shape}")
    for name, check in checks.items():
        verdict = "correct" if check.is_within else "WRONG"
        print(f"{verdict} against float64, {name}: {check}")
    print()
    tables.comparison(measured).print(sys.stdout)
