"""`waterline experiment`: the papers' tables, measured here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from waterline.api import environment
from waterline.bench import records
from waterline.bench.experiments import EXPERIMENTS, find
from waterline.bench.records import Record
from waterline.cli.common import Progress, check_writable, list_of, positive, seconds
from waterline.errors import InvalidArgument
from waterline.report import experiment_figures, experiments
from waterline.report.figures.drawing import SUFFIXES, drawing_settings


class _Options:
    """The options of all experiments, in one parser.

    Several experiments may have an option of the same name (`--batch`): the command has it once, of the first one's
    type, and each experiment keeps its own default. What an experiment does not have is a mistake, not ignored.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.group = parser.add_argument_group("of some experiments")
        self.actions: dict[str, argparse.Action] = {}
        self.defaults: dict[str, dict[str, Any]] = {}  # experiment -> its options' names and defaults

    def add(self, experiment: str, container: Any, *names: str, default: Any = None, help: str = "", **how: Any) -> Any:
        text = f"{experiment}: {help}"
        if names[0] in self.actions:
            action = self.actions[names[0]]
            action.help = f"{action.help}; {text}"
        else:
            action = self.actions[names[0]] = container.add_argument(
                *names, default=argparse.SUPPRESS, help=text, **how
            )
        if how.get("action") == "store_true":
            default = False
        self.defaults.setdefault(experiment, {})[action.dest] = default
        return action

    def complete(self, arguments: argparse.Namespace) -> None:
        """Give the chosen experiment's options that were left out their defaults.

        Raises:
            InvalidArgument: an option belongs to other experiments only.
        """
        own = self.defaults.get(arguments.name, {})
        for option, action in self.actions.items():
            if hasattr(arguments, action.dest) and action.dest not in own:
                options = [name for name, each in self.actions.items() if each.dest in own]
                has = f"it has {', '.join(options)}" if options else "it has none of its own"
                raise InvalidArgument(f"the experiment {arguments.name} has no option {option}", has)
        for dest, default in own.items():
            if not hasattr(arguments, dest):
                setattr(arguments, dest, default)


class _OptionsOf:
    """Where one experiment's `configure` adds its options."""

    def __init__(self, options: _Options, experiment: str, container: Any) -> None:
        self._options, self._experiment, self._container = options, experiment, container

    def add_argument(self, *names: str, **how: Any) -> Any:
        return self._options.add(self._experiment, self._container, *names, **how)

    def add_mutually_exclusive_group(self) -> _OptionsOf:
        return _OptionsOf(self._options, self._experiment, _Exclusive(self._container))


class _Exclusive:
    """A group of options that exclude each other, made with its first option: argparse cannot show an empty one, which
    it would be where another experiment has these options already."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._group: Any = None

    def add_argument(self, *names: str, **how: Any) -> Any:
        if self._group is None:
            self._group = self._container.add_mutually_exclusive_group()
        return self._group.add_argument(*names, **how)


def configure(parser: argparse.ArgumentParser) -> None:
    what = "; ".join(f"{name}: {summary}" for name, summary in EXPERIMENTS.items())
    parser.add_argument("name", metavar="NAME", help=what)
    parser.add_argument("--threads", type=list_of(positive), metavar="N,..", help="default: see the experiment")
    parser.add_argument("--seconds", type=seconds, default=3.0, metavar="S", help="for each comparison (default: 3)")
    parser.add_argument("--json", metavar="FILE", help="add the records to a file of JSON lines, as they are measured")
    parser.add_argument("--figure", metavar="FILE", help="draw the experiment's figure (.svg, .png or .pdf)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options = _Options(parser)
    for name in EXPERIMENTS:
        find(name).configure(_OptionsOf(options, name, options.group))
    parser.set_defaults(complete=options.complete)


def execute(arguments: argparse.Namespace) -> int:
    experiment = find(arguments.name)
    arguments.complete(arguments)
    check_writable(arguments.json)
    if arguments.figure:
        check_figure(arguments.figure)
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
    if arguments.figure:
        drawing = experiment_figures.figure(found)
        if drawing is None:
            progress.say(f"{arguments.figure} is not drawn: nothing was timed")
        else:
            drawing.save(arguments.figure)
    return 0


def check_figure(path: str) -> None:
    """Find out before the measurement whether the figure can be drawn and written.

    Raises:
        InvalidArgument: no such format, or no matplotlib. OSError: the file cannot be written.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InvalidArgument(f"{path!r} does not end with the suffix of a figure", f"use {', '.join(SUFFIXES)}")
    with drawing_settings():
        pass
    is_new = not Path(path).exists()
    check_writable(path)
    if is_new:
        Path(path).unlink()
