"""`waterline tune`: each layer's few best candidates measured, as they run inside the network, and remembered."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from waterline.api.compiling import make_engine, read_source
from waterline.api.engine import Engine
from waterline.api.options import TUNE_SECONDS, Options, parse_options
from waterline.bench.workload import Workload
from waterline.cli.common import (
    Progress,
    add_accuracy,
    add_device,
    add_engine,
    add_json,
    add_network,
    positive,
    print_json,
    seconds,
)
from waterline.errors import Error
from waterline.graph import Graph
from waterline.planner import Candidate, Measurements, Plan, Target, TuningTask, plan, tuning_tasks
from waterline.planner.measurements import layer_key
from waterline.report.tables import Table, short_shape
from waterline.runtime.tuning import Progress as Told
from waterline.runtime.tuning import missing
from waterline.spec import ConvSpec


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    add_engine(parser)
    add_device(parser)
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="images at a time (default: 1)")
    parser.add_argument(
        "--seconds", type=seconds, default=TUNE_SECONDS, metavar="S", help=f"at most (default: {TUNE_SECONDS:g})"
    )
    add_accuracy(parser)
    parser.add_argument("--again", action="store_true", help="measure also what was measured before")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Exit status 0, also when the time ended first; 1 when it was interrupted. What was measured is kept."""
    engine = make_engine(arguments.device, arguments.dtype, arguments.threads)
    options = parse_options({"accuracy": arguments.accuracy, "tune": arguments.seconds}, engine.algorithm_names)
    workload = Workload.named(arguments.model, arguments.image_size)
    inputs = workload.inputs(arguments.batch)
    threads = engine.threads
    graph = read_source(workload.model, inputs).graph
    graph.dtype = engine.dtype
    tasks = tuning_tasks(graph, engine.target, options.plan)
    memory = engine.measured_layers()
    wanted = tasks if arguments.again else missing(tasks, memory, threads)
    is_interrupted = _measure(tasks, wanted, engine, options)

    left = {task.key for task in missing(tasks, memory, threads)}
    rows = _rows(graph, engine.target, options, tasks, memory.measurements())
    facts: dict[str, Any] = {
        "network": workload.name,
        "machine": engine.target.name,
        "threads": threads,
        "batch": arguments.batch,
        "accuracy": arguments.accuracy,
        "measured": sum(task.key not in left for task in wanted),
        "known": len(tasks) - len(wanted),
        "left": len(left),
        "is_interrupted": is_interrupted,
        "layers": rows,
    }
    if arguments.json:
        print_json(facts)
    else:
        _table(facts).print(sys.stdout)
    if is_interrupted:
        count = len(tasks) - len(left)
        raise Error(f"interrupted: {count} of {len(tasks)} layers are measured, and kept", "run it again to go on")
    return 0


def _measure(tasks: list[TuningTask], wanted: list[TuningTask], engine: Engine, options: Options) -> bool:
    """Whether it was interrupted."""
    progress = Progress()

    def show(told: Told) -> None:
        share = f"{told.done + 1} of {told.total}"
        progress.show(f"layer {share}: {told.task.name}, {len(told.task.candidates)} candidates, round {told.rounds}")

    try:
        engine.tune(tasks, wanted, options.tune_seconds, show)
    except KeyboardInterrupt:
        return True
    finally:
        progress.clear()
    return False


def _rows(
    graph: Graph, target: Target, options: Options, tasks: list[TuningTask], measured: Measurements
) -> list[dict[str, Any]]:
    """A layer each: what is chosen by cost and what by measurement, and every candidate's times for one image."""
    before = _candidates(plan(graph, target, options.plan), target, options)
    after = _candidates(plan(graph, target, options.plan, measured), target, options)
    rows = []
    for task in tasks:
        by_cost, chosen = before[task.key][0], after[task.key][0]
        times = {(each.algorithm, each.config): each.measured_seconds for each in after[task.key]}
        row = {
            "name": task.name,
            "count": task.count,
            "spec": task.spec.id,
            "epilogue": str(task.spec.epilogue),
            "before": by_cost.algorithm,
            "after": chosen.algorithm,
            "is_other_config": by_cost.config != chosen.config,
            "predicted_seconds": chosen.seconds,
            "measured_seconds": chosen.measured_seconds,
            "before_measured_seconds": times.get((by_cost.algorithm, by_cost.config)),
            "candidates": [
                {
                    "algorithm": each.algorithm,
                    "config": str(each.config),
                    "predicted_seconds": each.seconds,
                    "measured_seconds": each.measured_seconds,
                }
                for each in after[task.key]
            ],
        }
        rows.append(row)
    return rows


def _candidates(made: Plan, target: Target, options: Options) -> dict[str, list[Candidate]]:
    """Layer -> its candidates that were not refused, the chosen one first."""
    return {
        layer_key(layer.spec, options.plan.algorithms, options.plan.accuracy, target.decided(layer.spec).n): [
            candidate for candidate in layer.candidates if candidate.seconds is not None
        ]
        for step in made.steps
        for layer in step.layers
        if isinstance(layer.spec, ConvSpec)
    }


def _table(facts: dict[str, Any]) -> Table:
    threads = facts["threads"]
    title = f"{facts['network']}, batch {facts['batch']}, {threads} thread{'s' if threads > 1 else ''}"
    columns = ("<layer", "times", "<shape", "<by cost", "<by measurement")
    table = Table(title, (*columns, "predicted us", "measured us", "by cost us", "gain"))
    tuned = untuned = 0.0
    for row in facts["layers"]:
        best, other = row["measured_seconds"], row["before_measured_seconds"]
        after = "not measured" if best is None else row["after"]
        if best is not None and row["after"] == row["before"] and row["is_other_config"]:
            after += ", other blocking"
        if best is not None and other is not None:
            tuned += row["count"] * best
            untuned += row["count"] * other
        gain = "" if best is None or other is None else f"{other / best:.2f}"
        figures = (_microseconds(row["predicted_seconds"]), _microseconds(best), _microseconds(other), gain)
        shape = short_shape(row["spec"])
        table.rows.append((row["name"], str(row["count"]), shape, row["before"], after, *figures))
    if tuned:
        sums = (_microseconds(tuned), _microseconds(untuned), f"{untuned / tuned:.2f}")
        table.totals.append(("all", "", "", "", "", "", *sums))
    table.notes.append(
        f"{facts['measured']} layers measured now, {facts['known']} known before. Times are of one image."
    )
    if facts["left"]:
        table.notes.append(f"{facts['left']} layers are left, and chosen by cost: run it again to go on.")
    return table


def _microseconds(value: float | None) -> str:
    return "" if value is None else f"{1e6 * value:.1f}"
