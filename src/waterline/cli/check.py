"""`waterline check`: results against float64, within the bound that the algorithms state."""

from __future__ import annotations

import argparse

import waterline
from waterline.bench.ours import as_list
from waterline.bench.truth import check_layer, check_network
from waterline.bench.workload import Workload
from waterline.cli.common import (
    MODEL_HELP,
    Progress,
    add_device,
    add_engine,
    add_image_size,
    algorithm_names,
    layer_specs,
    list_of,
    positive,
)
from waterline.errors import InvalidArgument, Refused
from waterline.reference import Comparison

FAILED = 1


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--conv", nargs="+", metavar="SPEC", help="instead of a model: ids of layers, or files of them")
    parser.add_argument("--algorithm", type=list_of(str), metavar="A,..", help="algorithms (default: the planner's)")
    parser.add_argument("--batch", type=positive, metavar="N", help="default: 1, or what a layer's id says")
    add_image_size(parser)
    add_engine(parser)
    add_device(parser)


def execute(arguments: argparse.Namespace) -> int:
    if (arguments.model is None) == (arguments.conv is None):
        raise InvalidArgument("give either MODEL or --conv SPEC", "`waterline check --help` shows both")
    algorithms = _names(arguments)
    return _layers(arguments, algorithms) if arguments.conv else _network(arguments, algorithms)


def _network(arguments: argparse.Namespace, algorithms: list[str]) -> int:
    workload = Workload.named(arguments.model, arguments.image_size)
    inputs = workload.inputs(arguments.batch or 1)
    options = {"algorithms": algorithms} if algorithms else {}
    net = waterline.compile(
        workload.model,
        device=arguments.device,
        num_threads=arguments.threads,
        dtype=arguments.dtype,
        options=options,
    )
    results = as_list(net(*inputs.values()))
    Progress().say(f"computing {workload.name} in float64 ...")
    found = check_network(workload, inputs, results, net.plan_for(*inputs.values()), target=net.target)
    for name, comparison in found.items():
        print(f"{verdict(comparison)}  {workload.name}, output {name!r}: {comparison}")
    return 0 if all(comparison.is_within for comparison in found.values()) else FAILED


def _layers(arguments: argparse.Namespace, algorithms: list[str]) -> int:
    specs = layer_specs(arguments.conv)
    if arguments.batch:
        specs = [spec.with_batch(arguments.batch) for spec in specs]
    failures = checked = 0
    for spec in specs:
        for algorithm in algorithms or (None,):
            try:
                check = check_layer(
                    spec,
                    algorithm,
                    device=arguments.device,
                    num_threads=arguments.threads,
                    dtype=arguments.dtype,
                )
            except Refused as refusal:
                print(f"refused  {spec.id}  {algorithm}: {refusal.message}")
                continue
            checked += 1
            failures += not check.comparison.is_within
            print(f"{verdict(check.comparison)}  {spec.id}  {check.algorithm}: {check.comparison}", flush=True)
    if not checked:
        raise Refused("no algorithm that was asked for serves any of the layers", "leave --algorithm out")
    return FAILED if failures else 0


def _names(arguments: argparse.Namespace) -> list[str]:
    """Algorithms that were asked for: a CPU's are checked now, a GPU's by `waterline.compile`."""
    return algorithm_names(arguments.algorithm) if arguments.device == "cpu" else list(arguments.algorithm or ())


def verdict(comparison: Comparison) -> str:
    return "ok     " if comparison.is_within else "FAILED "
