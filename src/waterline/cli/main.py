"""`waterline`: reads the command line, runs one command, and turns what goes wrong into two lines and an exit status.

Exit status: 0; 1 for a failed check or run; 2 for a mistake in the call or the input.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.metadata
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from waterline.errors import Error, InvalidArgument, InvalidModel, Refused, UnsupportedOperator

# command -> what it does. The module of the same name in this package has `configure(parser)` and `execute(arguments)`.
COMMANDS = {
    "info": "this machine: features, caches, measured peak and bandwidth, versions",
    "run": "run a network on an image, check the result, show outputs and latency",
    "bench": "latency of networks or layers, interleaved with other engines",
    "profile": "time and efficiency of every layer",
    "analyse": "how far layers and blocks are from the limit, and why",
    "explain": "the plan: every layer's algorithm, and why",
    "tune": "measure each layer's best candidates; remembered for the option tune",
    "check": "correctness against float64",
    "report": "one page of figures and tables, in a file of HTML",
    "experiment": "the papers' tables, measured here",
    "train": "train ConvFirst, on one process or under torchrun",
}
SPELLINGS = {"analyze": "analyse"}
FAILED, MISTAKE = 1, 2
_MISTAKES = (InvalidArgument, InvalidModel, UnsupportedOperator, Refused)


class Parser(argparse.ArgumentParser):
    """Like argparse's, but a mistake is one line and one hint."""

    options: Sequence[str] = ()  # of the command that is read: what argparse does not know ends up at the top

    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(message[:1].lower() + message[1:], self._hint(message))

    def _hint(self, message: str) -> str:
        choice = re.search(r"invalid choice: '?([^' ]*)'?", message)
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if choice and (names := difflib.get_close_matches(choice[1], COMMANDS, n=1)):
            return f"did you mean `waterline {names[0]}`?"
        if choice and "--" not in message:
            return f"commands are {', '.join(COMMANDS)}"
        if unknown and (names := difflib.get_close_matches(unknown[1], self.options, n=1)):
            return f"did you mean {names[0]}?"
        return f"`{self.prog} --help` lists what is accepted"


def parser(command: str | None = None) -> Parser:
    """The command line. Only `command` gets its arguments: importing the others would take longer than the call."""
    top = Parser(
        prog="waterline", description="Convolutional networks at the speed of the machine.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"waterline {importlib.metadata.version('waterline')}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, summary in COMMANDS.items():
        added = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        if name == command:
            importlib.import_module(f"waterline.cli.{name}").configure(added)
            top.options = list(added._option_string_actions)
    return top


def entry(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status. Never raises, but for SystemExit of `--help` and `--version`."""
    try:
        argv = sys.argv[1:] if argv is None else list(argv)
        argv[:1] = [SPELLINGS.get(word, word) for word in argv[:1]]
        arguments = parser(next((word for word in argv if word in COMMANDS), None)).parse_args(argv)
        status: int = importlib.import_module(f"waterline.cli.{arguments.command}").execute(arguments)
        sys.stdout.flush()
        return status
    except Error as error:
        return _complain(error.message, error.hint, MISTAKE if isinstance(error, _MISTAKES) else FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", "", FAILED)
    except BrokenPipeError:
        # Whoever read the output has closed it. Python would try to flush it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except MemoryError:
        return _complain("out of memory", "a smaller batch or image needs less", FAILED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(
            f"{where}{error.strerror or error}", "check the path, its permissions and the free space", MISTAKE
        )
    except Exception as error:  # a bug: still no traceback for the user
        if os.environ.get("WATERLINE_VERBOSE"):
            traceback.print_exc()
        text = " ".join(str(error).split())
        return _complain(
            f"internal error: {type(error).__name__}: {text}",
            "WATERLINE_VERBOSE=dispatch shows where; please report it",
            FAILED,
        )


def _complain(message: str, hint: str, status: int) -> int:
    print(f"waterline: {' '.join(message.split())}", file=sys.stderr)
    if hint:
        print(f"hint: {' '.join(hint.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(entry())
