"""`waterline report`: one page of a network's figures, tables and comparisons, in a file that needs no network."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import waterline
from waterline.analysis import Analysis, of_report
from waterline.api import environment
from waterline.bench import ours, peers, records
from waterline.bench.comparison import compare
from waterline.bench.engine import CannotServe, Engine, Task
from waterline.bench.timing import Protocol
from waterline.bench.workload import Workload, flops
from waterline.cli.common import (
    MODEL_HELP,
    Progress,
    add_device,
    add_engine,
    add_image_size,
    add_tuned,
    list_of,
    machine_of,
    positive,
    say_tuned,
    seconds,
    tuned_options,
    unique,
)
from waterline.errors import InvalidArgument
from waterline.report import page
from waterline.report.page import Content, Profile, pictures

SUFFIXES = (".html", ".htm")
SECONDS = 2.0
EXAMPLE = "for instance: waterline report resnet50 -o resnet50.html"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"{MODEL_HELP}; none: compare saved profiles only")
    parser.add_argument("-o", "--output", metavar="FILE.html", help="the page; an older one is replaced at the end")
    parser.add_argument(
        "--vs", type=list_of(str), default=[], metavar="PEER,..", help=f"measure beside, of {', '.join(peers.PEERS)}"
    )
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="saved",
        metavar="PROFILE.json",
        help="compare layer by layer with a profile that `waterline profile --json` wrote; may be given several times",
    )
    parser.add_argument(
        "--machine", metavar="NAME", help="of the catalogue, or a part of its name; implies --predicted"
    )
    parser.add_argument("--predicted", action="store_true", help="from the plan alone: nothing is compiled or run")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--seconds",
        type=seconds,
        metavar="S",
        help=f"for the profile, and again for the latency (default: {SECONDS:g})",
    )
    add_image_size(parser)
    add_engine(parser)
    add_device(parser)
    add_tuned(parser)


def execute(arguments: argparse.Namespace) -> int:
    path = _output(arguments)
    _check(arguments)
    saved = _saved([Path(name) for name in arguments.saved])
    progress = Progress()
    try:
        with whole_file(path) as file:
            file.write(page.html(_content(arguments, saved, progress)))
    finally:
        progress.clear()
    progress.say(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
    return 0


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A file that is there when it is complete. Until then, and if anything fails, what was there before stays.

    It is made at once: a folder that cannot be written is found out before the measurement.

    Raises:
        InvalidArgument: it cannot be written.
    """
    target = path.resolve()
    part = target.with_name(f".waterline-{secrets.token_hex(6)}.part")
    if target.is_dir():
        raise InvalidArgument(f"{str(path)!r} is a directory", "give the name of a file in it")
    try:
        part.touch(exist_ok=False)
    except OSError as error:
        raise InvalidArgument(
            f"{str(path)!r} cannot be written: {error.strerror}", "check the folder and its permissions"
        ) from error
    try:
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            yield file
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


# ---- what was asked for ---------------------------------------------------------------------------------------------
def _output(arguments: argparse.Namespace) -> Path:
    if not arguments.output:
        raise InvalidArgument("report writes a file, and -o does not say which", EXAMPLE)
    path = Path(arguments.output)
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument(f"{arguments.output!r} does not end with .html", f"the page is HTML; {EXAMPLE}")
    return path


def _check(arguments: argparse.Namespace) -> None:
    arguments.vs = unique([peers.check_name(name) for name in arguments.vs])
    if arguments.model is None:
        if len(arguments.saved) < 2:
            raise InvalidArgument(
                "report needs a MODEL, or two saved profiles to compare",
                f"{EXAMPLE}; or: waterline report --with a.json --with b.json -o page.html",
            )
        if arguments.vs or _is_predicted(arguments):
            option = "--vs" if arguments.vs else _prediction(arguments)
            raise InvalidArgument(f"{option} needs a MODEL", "saved profiles are compared as they are")
    elif _is_predicted(arguments) and (arguments.vs or arguments.seconds):
        option = "--vs" if arguments.vs else "--seconds"
        raise InvalidArgument(f"{option} measures, and {_prediction(arguments)} only predicts", "leave one of them out")


def _is_predicted(arguments: argparse.Namespace) -> bool:
    return arguments.predicted or arguments.machine is not None


def _prediction(arguments: argparse.Namespace) -> str:
    return "--predicted" if arguments.machine is None else "--machine"


def _saved(paths: Sequence[Path]) -> list[Profile]:
    """Named by their files; by their paths, where the names are the same."""
    names = [path.stem for path in paths]
    is_clear = len(set(names)) == len(names)
    return [page.read(path, name if is_clear else str(path)) for path, name in zip(paths, names, strict=True)]


# ---- what is shown --------------------------------------------------------------------------------------------------
def _content(arguments: argparse.Namespace, saved: Sequence[Profile], progress: Progress) -> Content:
    if arguments.model is None:
        return Content(records.environment(environment.machine(), {}), profiles=saved)
    workload = Workload.named(arguments.model, arguments.image_size)
    pictures.check()
    content = (_predicted if _is_predicted(arguments) else _measured)(arguments, workload, progress)
    analysis = content.analysis
    assert analysis is not None
    progress.show("drawing")
    content = replace(content, pictures=pictures.of(analysis, content.environment["commit"]))
    if not saved:
        return content
    this = page.of_analysis(analysis, "this run" if analysis.is_measured else "predicted")
    return replace(content, profiles=(this, *saved))


def _predicted(arguments: argparse.Namespace, workload: Workload, progress: Progress) -> Content:
    progress.show(f"planning {workload.name}")
    analysis: Analysis = waterline.analyse(
        workload.graph(arguments.batch),
        machine=machine_of(arguments),
        num_threads=arguments.threads,
        dtype=arguments.dtype,
        options=tuned_options(arguments),
    )
    return Content(records.environment(environment.machine(), {}), replace(analysis, network=workload.name))


def _measured(arguments: argparse.Namespace, workload: Workload, progress: Progress) -> Content:
    inputs = workload.inputs(arguments.batch)
    progress.show(f"compiling {workload.name}")
    net = waterline.compile(
        workload.model,
        inputs,
        device=arguments.device,
        num_threads=arguments.threads,
        dtype=arguments.dtype,
        options=tuned_options(arguments),
    )
    machine = net.engine.rates
    if arguments.tuned:
        say_tuned(progress, net.plan, workload.name)
    duration = arguments.seconds or SECONDS
    progress.show(f"profiling {workload.name} for {duration:g} s")
    report = net.profile(*inputs.values(), seconds=duration)
    analysis = replace(of_report(net.plan, machine, report), network=workload.name)
    task = Task(workload.model, inputs, net.num_threads, arguments.dtype, arguments.device)
    engines = {"waterline": ours.engine_of(net, inputs), **_peers(task, arguments.vs, workload.name, progress)}
    measured = compare(
        engines,
        machine,
        flops=flops(workload.graph(arguments.batch)),
        threads=net.num_threads,
        labels={"model": workload.name, "dtype": arguments.dtype, "batch": arguments.batch},
        protocol=Protocol(seconds=duration),
        on_round=lambda rounds, share: progress.show(f"latency: {rounds} rounds, {100 * share:.0f} %"),
    )
    versions = {engine.name: engine.version for engine in engines.values()}
    return Content(records.environment(machine, versions), analysis, report.runs, records=measured)


def _peers(task: Task, names: Sequence[str], network: str, progress: Progress) -> dict[str, Engine]:
    found = {}
    for name in names:
        progress.show(f"preparing {name}")
        try:
            found[name] = peers.prepare(name, task)
        except CannotServe as reason:
            progress.say(f"{network}: {name} is left out: {reason.message}")
    return found
