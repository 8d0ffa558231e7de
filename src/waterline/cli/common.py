"""What several commands share: arguments, progress on stderr, JSON on stdout or in a file."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import waterline
from waterline.algorithms.base import ACCURACIES
from waterline.api.options import KNOWN
from waterline.bench import layers
from waterline.bench.command import positive
from waterline.errors import InvalidArgument
from waterline.planner import Plan
from waterline.spec import ConvSpec

MODEL_HELP = "a name of the zoo, or the path of an ONNX file"


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def list_of(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """argparse's type for values separated by commas."""

    def parse_list(text: str) -> list[Any]:
        return [parse(part.strip()) for part in text.split(",")]

    return parse_list


def add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_image_size(parser)


def add_image_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-size", type=positive, metavar="N", help="height and width, for networks of the zoo")


def add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="default: the physical cores this process may use"
    )
    add_dtype(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, or cuda, cuda:1, ... (default: cpu)")


def machine_of(arguments: argparse.Namespace) -> str | None:
    """What `waterline.analyse` is to plan for: the catalogue's machine, or without one that of --device."""
    return arguments.machine or (None if arguments.device == "cpu" else arguments.device)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        default="float32",
        metavar="D",
        help="of the arithmetic (default: float32; with --device cuda also tf32, float16, bfloat16)",
    )


def add_tuned(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tuned", action="store_true", help="choose by measured times, as far as `waterline tune` has measured some"
    )


def tuned_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of `waterline.compile`: with --tuned by what was measured, measuring nothing."""
    return {"tune": KNOWN} if arguments.tuned else {}


def say_tuned(progress: Progress, plan: Plan, name: str) -> None:
    """How many layers --tuned has decided: a plan without any is the same as without the flag."""
    layers = [layer for step in plan.steps for layer in step.layers if layer.spec is not None]
    measured = sum(layer.candidates[0].measured_seconds is not None for layer in layers)
    more = f"; `waterline tune {name}` measures the others" if measured < len(layers) else ""
    progress.say(f"{name}: {measured} of {len(layers)} layers are chosen by measured times{more}")


def add_accuracy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accuracy", choices=ACCURACIES, default="default", help="which algorithms may be used (default: default)"
    )


def add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, allow_nan=False))


def write_json(path: str, value: Any) -> None:
    """To a file, or to stdout if the path is `-`."""
    if path == "-":
        print_json(value)
    else:
        Path(path).write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def check_writable(path: str | None) -> None:
    """Find out before an hour of measurement, not after it. Leaves the file as it is.

    Raises:
        OSError: the file cannot be written.
    """
    if path is not None and path != "-":
        with open(path, "ab"):
            pass


def unique(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


class Progress:
    """Lines of text on stderr: overwritten in place on a terminal, silent elsewhere but for `say`."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._shown = 0
        self._last = 0.0

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def show(self, text: str) -> None:
        """A line that the next one replaces; ten a second at most."""
        now = time.monotonic()
        if self._is_terminal and now - self._last > 0.1:
            self._last = now
            print("\r" + text.ljust(self._shown), end="", file=sys.stderr, flush=True)
            self._shown = len(text)

    def clear(self) -> None:
        if self._shown:
            print("\r" + " " * self._shown + "\r", end="", file=sys.stderr, flush=True)
            self._shown = 0


def layer_specs(arguments: Sequence[str]) -> list[ConvSpec]:
    """Layers from ids and files of ids, each once.

    Raises:
        InvalidArgument: neither an id nor a file.
    """
    specs: list[ConvSpec] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            raise InvalidArgument(f"{argument!r} is a directory", "give a file with one layer's id a line")
        specs += layers.read(path) if path.is_file() else [ConvSpec.parse(argument)]
    return unique(specs)


def algorithm_names(names: Sequence[str] | None) -> list[str]:
    """The names, if there are such algorithms. Variants (`winograd:f2x2`) are checked by `waterline.compile`.

    Raises:
        InvalidArgument: one is unknown; the hint names the closest.
    """
    known = waterline.algorithms()
    for name in names or ():
        if name.partition(":")[0] not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"algorithms are {', '.join(known)}"
            raise InvalidArgument(f"there is no algorithm {name!r}", hint)
    return list(names or ())
