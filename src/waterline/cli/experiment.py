"""`waterline experiment`: the papers' tables, measured here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from waterline.api import environment
from waterline.bench import records
from waterline.bench.experiments import EXPERIMENTS, find
from waterline.bench.records import Record
from waterline.cli.common import Progress, check_writable, list_of, positive, seconds
from waterline.report import experiments


def configure(parser: argparse.ArgumentParser) -> None:
    what = "; ".join(f"{name}: {summary}" for name, summary in EXPERIMENTS.items())
    parser.add_argument("name", metavar="NAME", help=what)
    parser.add_argument("--threads", type=list_of(positive), metavar="N,..", help="default: the physical cores")
    parser.add_argument("--seconds", type=seconds, default=3.0, metavar="S", help="for each comparison (default: 3)")
    parser.add_argument("--json", metavar="FILE", help="add the records to a file of JSON lines, as they are measured")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    for name in EXPERIMENTS:
        find(name).configure(parser.add_argument_group(name))


def execute(arguments: argparse.Namespace) -> int:
    experiment = find(arguments.name)
    check_writable(arguments.json)
    progress = Progress()
    found: list[Record] = []
    for measured in experiment.measure(arguments, environment.machine(), progress):
        if arguments.json:
            records.append(Path(arguments.json), measured)
        found += measured
    progress.clear()
    for number, table in enumerate(experiments.tables(found)):
        if number:
            print()
        if arguments.markdown:
            print(table.to_markdown())
        else:
            table.print(sys.stdout)
    return 0
