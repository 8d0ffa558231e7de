"""`waterline analyse`: how far each layer and block is from the limit, and why; measured, or from the plan alone."""

from __future__ import annotations

import argparse
import sys

import waterline
from waterline.analysis import Analysis
from waterline.bench.workload import Workload
from waterline.cli.common import (
    add_device,
    add_engine,
    add_json,
    add_network,
    add_tuned,
    machine_of,
    positive,
    seconds,
    tuned_options,
)
from waterline.errors import InvalidArgument
from waterline.report import figures
from waterline.report.analysis_tables import block_table, layer_table

LAYERS = 15


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    add_engine(parser)
    add_device(parser)
    add_tuned(parser)
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--machine", metavar="NAME", help="a machine of the catalogue, or a part of its name; implies --predicted"
    )
    parser.add_argument("--predicted", action="store_true", help="from the plan alone: nothing is compiled or run")
    parser.add_argument("--seconds", type=seconds, metavar="S", help="time to measure (default: 2)")
    parser.add_argument("--figures", metavar="FOLDER", help="also draw the analysis, as SVG files in this folder")
    count = parser.add_mutually_exclusive_group()
    count.add_argument(
        "--layers", type=positive, default=LAYERS, metavar="N", help=f"show so many, worst first (default: {LAYERS})"
    )
    count.add_argument("--all", action="store_true", help="show all layers")
    form = parser.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--markdown", action="store_true", help="print Markdown instead of text")


def execute(arguments: argparse.Namespace) -> int:
    if arguments.figures is not None:
        figures.prepare(arguments.figures)  # a mistake is said before the work, not after it
    analysis = _analysis(arguments)
    _print(analysis, arguments)
    if arguments.figures is not None:
        for path in figures.save_all(analysis, arguments.figures):
            print(path, file=sys.stderr)
    return 0


def _print(analysis: Analysis, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(analysis.to_json())
        return
    tables = (layer_table(analysis, None if arguments.all else arguments.layers), block_table(analysis))
    if arguments.markdown:
        print("\n".join(f"* {line}" for line in analysis.summary()))
    else:
        print("\n".join(analysis.summary()))
    for table in tables:
        print()
        if arguments.markdown:
            print(table.to_markdown())
        else:
            table.print(sys.stdout)


def _analysis(arguments: argparse.Namespace) -> Analysis:
    workload = Workload.named(arguments.model, arguments.image_size)
    if arguments.machine is not None or arguments.predicted:
        if arguments.seconds is not None:
            raise InvalidArgument("--seconds was given, but nothing is measured", "leave it out, or --predicted")
        return waterline.analyse(
            workload.graph(arguments.batch),
            machine=machine_of(arguments),
            num_threads=arguments.threads,
            dtype=arguments.dtype,
            options=tuned_options(arguments),
        )
    inputs = workload.inputs(arguments.batch)
    options = tuned_options(arguments)
    net = waterline.compile(
        workload.model,
        inputs,
        device=arguments.device,
        num_threads=arguments.threads,
        dtype=arguments.dtype,
        options=options,
    )
    return net.analyse(*inputs.values(), seconds=arguments.seconds or 2.0)
