"""`waterline bench --device cuda --suite gpu`: everything that is measured on a GPU, within a few minutes.

With TRITON_INTERPRET=1 it runs without a GPU: kernels are checked on tiny layers, and nothing is timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from waterline.api.options import CPU, parse_device
from waterline.bench import records
from waterline.bench.gpu import suite
from waterline.bench.gpu.suite import PART_NAMES, SUITE, Report, Wanted
from waterline.bench.records import Record
from waterline.cli.common import add_device, check_writable, list_of, unique, write_json
from waterline.errors import InvalidArgument
from waterline.report.results import gpu

WRONG = 1  # the exit status


def configure(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument("--suite", metavar="NAME", help=f"on a GPU, instead of models: {SUITE}, everything at once")
    parser.add_argument("--parts", type=list_of(str), metavar="P,..", help=f"of the suite: {', '.join(PART_NAMES)}")
    parser.add_argument("--quick", action="store_true", help="of the suite the smallest cases, for a trial")


def is_asked_for(arguments: argparse.Namespace) -> bool:
    """Whether the command is the suite's.

    Raises:
        InvalidArgument: a half of it.
    """
    if arguments.device == CPU and arguments.suite is None:
        for name in ("parts", "quick"):
            if getattr(arguments, name):
                raise InvalidArgument(f"--{name} belongs to the suite of a GPU", f"--device cuda --suite {SUITE}")
        return False
    if arguments.device == CPU:
        raise InvalidArgument(f"the suite {arguments.suite!r} is a GPU's", "add --device cuda")
    parse_device(arguments.device)
    if arguments.suite is None and (arguments.model or arguments.conv):
        if arguments.vs:
            raise InvalidArgument(
                "--vs names engines on the CPU", f"--suite {SUITE} measures beside PyTorch on the GPU"
            )
        return False
    if arguments.suite != SUITE:
        given = (
            "nothing to measure" if arguments.suite is None else f"the suite {arguments.suite!r}, which there is not"
        )
        raise InvalidArgument(f"bench was given {given}", f"give MODEL..., --conv SPEC..., or --suite {SUITE}")
    if arguments.model or arguments.conv or arguments.vs or arguments.algorithm:
        raise InvalidArgument(
            "the suite has its own networks and layers", "leave MODEL, --conv, --vs and --algorithm out"
        )
    return True


def execute(arguments: argparse.Namespace) -> int:
    check_writable(arguments.json)
    check_writable(arguments.append)

    def keep(found: Sequence[Record]) -> None:
        if arguments.append:
            records.append(Path(arguments.append), found)

    wanted = Wanted(
        device=arguments.device,
        seconds=arguments.seconds or suite.SECONDS,
        parts=tuple(unique(arguments.parts or PART_NAMES)),
        batches=tuple(unique(arguments.batch or [])),
        is_quick=arguments.quick,
    )
    report = suite.run(wanted, keep)
    if arguments.json:
        write_json(arguments.json, report.records)
    if arguments.json != "-":
        for table in gpu.tables(report.records):
            print(table.to_markdown() if arguments.markdown else table.to_text(), end="\n\n")
    say(report)
    return WRONG if report.wrong else 0


def say(report: Report) -> None:
    """What is missing from the tables, on stderr."""
    for record in report.failures:
        labels = " ".join(str(record[name]) for name in ("model", "engine", "algorithm", "config") if record.get(name))
        print(f"failed: {labels}: {record['error']}", file=sys.stderr)
    for record in report.wrong:
        labels = " ".join(str(record[name]) for name in ("model", "batch", "algorithm", "config"))
        print(f"WRONG: {labels}: {record['disagreement']:.3g} times what rounding explains", file=sys.stderr)
    for record in report.records:
        if "left_out" in record:
            labels = " ".join(str(record[name]) for name in ("model", "batch", "engine", "algorithm"))
            print(f"left for want of time: {labels}: {record['left_out']}", file=sys.stderr)
    for name in report.left:
        print(f"left for want of time: {name}", file=sys.stderr)


__all__ = ["configure", "execute", "is_asked_for"]
