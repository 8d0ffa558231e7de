"""The papers' experiments, measured here: each is a module with `configure(parser)` and `measure(...)`."""

from __future__ import annotations

import difflib
import importlib
from typing import Any, Protocol

from waterline.errors import InvalidArgument

# name -> what it measures. The module of the same name in this package has
# `configure(parser)`, which adds its own options (several experiments may have one of the same name and type), and
# `measure(arguments, machine, progress) -> Iterator[list[Record]]`, which yields the records of one measurement.
EXPERIMENTS = {
    "winograd": "Lavin and Gray (2015): accuracy on VGG's layers, and VGG-E by batch",
    "indirect": "Dukhan (2019): the indirect convolution against im2col, time and memory",
    "maxdnn": "Lavin (2015): computational efficiency of AlexNet's, Overfeat's and VGG's layers by batch",
    "efficiency": "Lavin (2024): complexity, efficiency, latency and waterline of whole networks",
    "fusion": "Lavin (2024): residual blocks as one kernel against their layers; time and workspace",
    "training": "ConvFirst and ConvNeXt of equal size: accuracy by seed on small data, and latency in every engine",
}


class Listener(Protocol):
    """Whoever wants to know how far an experiment is."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def show(self, text: str) -> None:
        """A line that the next one replaces."""


def find(name: str) -> Any:
    """The module of an experiment.

    Raises:
        InvalidArgument: there is none of this name; the hint names the closest.
    """
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, EXPERIMENTS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"experiments are {', '.join(EXPERIMENTS)}"
        raise InvalidArgument(f"there is no experiment {name!r}", hint)
    return importlib.import_module(f"waterline.bench.experiments.{name}")
