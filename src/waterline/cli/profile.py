"""`waterline profile`: time and efficiency of every layer, beside the direct algorithm's bound."""

from __future__ import annotations

import argparse
import sys

import waterline
from waterline.bench.workload import Workload
from waterline.cli.common import (
    Progress,
    add_device,
    add_engine,
    add_json,
    add_network,
    add_tuned,
    positive,
    say_tuned,
    seconds,
    tuned_options,
)
from waterline.report.tables import per_layer


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    add_engine(parser)
    add_device(parser)
    add_tuned(parser)
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="default: 1")
    parser.add_argument("--seconds", type=seconds, default=2.0, metavar="S", help="time to measure (default: 2)")
    form = parser.add_mutually_exclusive_group()
    add_json(form)
    parser.add_argument(
        "--phases",
        action=argparse.BooleanOptionalAction,
        help="show the phases of layers that have some (default: yes, but not in CSV; --json always has them)",
    )
    form.add_argument("--csv", action="store_true", help="print CSV instead of text")
    form.add_argument("--markdown", action="store_true", help="print Markdown instead of text")


def execute(arguments: argparse.Namespace) -> int:
    workload = Workload.named(arguments.model, arguments.image_size)
    inputs = workload.inputs(arguments.batch)
    options = tuned_options(arguments)
    net = waterline.compile(
        workload.model,
        inputs if arguments.batch > 1 else None,
        device=arguments.device,
        num_threads=arguments.threads,
        dtype=arguments.dtype,
        options=options,
    )
    if arguments.tuned:
        say_tuned(Progress(), net.plan, arguments.model)
    report = net.profile(*inputs.values(), seconds=arguments.seconds)
    if arguments.json:
        print(report.to_json())
    elif arguments.csv:
        print(report.to_csv(phases=bool(arguments.phases)).rstrip("\n"))
    else:
        title = f"{workload.name}, batch {arguments.batch}, {arguments.dtype}"
        table = per_layer(report.to_dict(), title, phases=arguments.phases is not False)
        if arguments.markdown:
            print(table.to_markdown())
        else:
            table.print(sys.stdout)
    return 0
