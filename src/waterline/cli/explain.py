"""`waterline explain`: what the planner chose, and why."""

from __future__ import annotations

import argparse

from waterline.api.compiling import make_engine, make_plan
from waterline.api.explanation import explain
from waterline.bench.workload import Workload
from waterline.cli.common import add_accuracy, add_device, add_engine, add_network, add_tuned, positive, tuned_options
from waterline.planner.measurements import layer_key
from waterline.spec import ConvSpec


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    add_engine(parser)
    add_device(parser)
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="default: 1")
    add_accuracy(parser)
    add_tuned(parser)


def execute(arguments: argparse.Namespace) -> int:
    workload = Workload.named(arguments.model, arguments.image_size)
    plan = make_plan(
        workload.model,
        workload.inputs(arguments.batch) if arguments.batch > 1 else None,
        device=arguments.device,
        num_threads=arguments.threads,
        dtype=arguments.dtype,
        options={"accuracy": arguments.accuracy, **tuned_options(arguments)},
    )
    print(explain(plan))
    engine = make_engine(arguments.device, arguments.dtype, arguments.threads)
    specs = [layer.spec for step in plan.steps for layer in step.layers]
    layers = {
        layer_key(spec, (), arguments.accuracy, engine.target.decided(spec).n)
        for spec in specs
        if isinstance(spec, ConvSpec)
    }
    measured = layers & set(engine.measured_layers().load())
    if arguments.tuned:
        print(f"{len(measured)} of {len(layers)} different layers have measured times on this machine")
    elif measured:
        print(f"{len(measured)} of {len(layers)} different layers have measured times: --tuned plans with them")
    return 0
