"""Tuning of a graph: what is missing is measured within the time allowed, if any; the plan gets all that is known."""

from __future__ import annotations

import logging

from waterline.api import environment
from waterline.api.options import Options
from waterline.graph import Graph
from waterline.machine import Machine
from waterline.planner import Measurements, TuningTask, tuning_tasks
from waterline.runtime.tuning import OnProgress, Tuned, missing, tune

_log = logging.getLogger("waterline.tuning")


def tuned(graph: Graph, machine: Machine, threads: int, options: Options) -> Measurements:
    """All that is known, after measuring the layers that never were, with `threads` and the graph's batch.

    Whatever the conditions were under which a layer was measured, it is not measured again: the choice belongs to the
    machine, so that networks compiled for other numbers of threads, or batches, compute the same bits.
    """
    memory = environment.measured_layers()
    if not options.tune_seconds:
        return memory.measurements()
    tasks = tuning_tasks(graph, machine, options.plan)
    wanted = missing(tasks, memory)
    if wanted:
        result = run(tasks, wanted, machine, threads, options)
        if result.left:
            _log.warning(
                "%s: %d of %d different layers are tuned after %g s, the others chosen by cost; compile again to go on",
                graph.name,
                len(tasks) - len(result.left),
                len(tasks),
                options.tune_seconds,
            )
    return memory.measurements()


def run(
    tasks: list[TuningTask],
    wanted: list[TuningTask],
    machine: Machine,
    threads: int,
    options: Options,
    on_progress: OnProgress | None = None,
) -> Tuned:
    """Measure the `wanted` ones of a network's layers on this machine."""
    return tune(
        tasks,
        wanted,
        environment.measured_layers(),
        machine,
        environment.object_cache(),
        threads=threads,
        seconds=options.tune_seconds,
        on_progress=on_progress,
    )
