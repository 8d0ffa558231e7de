"""What the protocols that run as `python -m waterline.bench.NAME` share: arguments, mistakes in two lines, columns.

A protocol's module has `configure(parser)` and `execute(arguments)`, as the commands of `waterline` have. Exit status:
0; 1 for a failed measurement; 2 for a mistake in the call or the input, with one line that says what is wrong and one
hint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from waterline.bench import records
from waterline.bench.records import Record
from waterline.bench.workload import Workload
from waterline.errors import Error, InvalidArgument, InvalidModel, Refused, UnsupportedOperator
from waterline.machine import Machine

FAILED, MISTAKE = 1, 2
_MISTAKES = (InvalidArgument, InvalidModel, UnsupportedOperator, Refused)


class Parser(argparse.ArgumentParser):
    """Like argparse's, but a mistake is an error with a hint."""

    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(message[:1].lower() + message[1:], f"`{self.prog} --help` lists what is accepted")


def entry(
    name: str,
    description: str,
    configure: Callable[[argparse.ArgumentParser], None],
    execute: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Read the command line, run the protocol and return the exit status.

    Args:
        name: of the module in this package.
        argv: None: this process's.
    """
    parser = Parser(prog=f"python -m waterline.bench.{name}", description=description, allow_abbrev=False)
    parser.add_argument("--append", type=Path, metavar="FILE", help="add the records to a file of JSON lines")
    configure(parser)
    try:
        arguments = parser.parse_args(argv)
        if arguments.append is not None:
            with open(arguments.append, "ab"):  # find out before the measurement, not after it
                pass
        return execute(arguments)
    except Error as error:
        return _complain(name, error.message, error.hint, MISTAKE if isinstance(error, _MISTAKES) else FAILED)
    except KeyboardInterrupt:
        return _complain(name, "interrupted", "", FAILED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        hint = "check the path, its permissions and the free space"
        return _complain(name, f"{where}{error.strerror or error}", hint, MISTAKE)


def _complain(name: str, message: str, hint: str, status: int) -> int:
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    if hint:
        print(f"hint: {' '.join(hint.split())}", file=sys.stderr)
    return status


# ---- arguments ------------------------------------------------------------------------------------------------------
def positive(text: str) -> int:
    """argparse's type for counts."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def words(text: str) -> list[str]:
    """argparse's type for names separated by commas, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def counts(text: str) -> list[int]:
    """argparse's type for counts separated by commas, each once."""
    return list(dict.fromkeys(positive(word) for word in words(text)))


def check_threads(threads: int, machine: Machine) -> None:
    """Raises InvalidArgument: more threads than cores, which would wait for each other."""
    if threads > machine.cores:
        raise InvalidArgument(
            f"{threads} threads on {machine.cores} physical cores would wait for each other",
            f"use at most {machine.cores}",
        )


def smallest_batch(workload: Workload) -> int:
    """One image, or as many as the file has written in."""
    return max((shape[0] for shape in workload.shapes.values() if shape), default=1) or 1


# ---- results --------------------------------------------------------------------------------------------------------
def keep(path: Path | None, found: Iterable[Record]) -> None:
    """Append the records, if a file was named."""
    if path is not None:
        records.append(path, found)


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Headings first. The first column is aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        print("  ".join(cells).rstrip(), flush=True)
