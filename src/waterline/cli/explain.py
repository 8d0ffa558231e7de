"""`waterline explain`: what the planner chose, and why."""

from __future__ import annotations

import argparse

from waterline.api import environment
from waterline.api.compiling import make_plan
from waterline.api.explanation import explain
from waterline.bench.workload import Workload
from waterline.cli.common import add_accuracy, add_engine, add_network
from waterline.planner.measurements import layer_key


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    add_engine(parser)
    add_accuracy(parser)
    parser.add_argument(
        "--tuned", action="store_true", help="the choice by measured times, as far as there are any, with these times"
    )


def execute(arguments: argparse.Namespace) -> int:
    workload = Workload.named(arguments.model, arguments.image_size)
    plan = make_plan(
        workload.model,
        num_threads=arguments.threads,
        dtype=arguments.dtype,
        options={"accuracy": arguments.accuracy},
        is_tuned=arguments.tuned,
    )
    print(explain(plan))
    layers = {layer_key(step.spec, (), arguments.accuracy) for step in plan.steps if step.spec is not None}
    measured = layers & set(environment.measured_layers().load())
    if arguments.tuned:
        print(f"{len(measured)} of {len(layers)} different layers have measured times on this machine")
    elif measured:
        print(f"{len(measured)} of {len(layers)} different layers have measured times: --tuned plans with them")
    return 0
