"""Tuning of a graph: what is missing is measured within the time allowed, if any; the plan gets all that is known."""

from __future__ import annotations

import logging

from waterline.api.engine import Engine
from waterline.api.options import Options
from waterline.graph import Graph
from waterline.planner import Measurements, tuning_tasks
from waterline.runtime.tuning import missing

_log = logging.getLogger("waterline.tuning")


def tuned(graph: Graph, engine: Engine, options: Options) -> Measurements:
    """All that is known, after measuring the layers that never were, with the engine's threads and the graph's batch.

    Whatever the conditions were under which a layer was measured, it is not measured again: the choice belongs to the
    machine, so that networks compiled for other numbers of threads, or batches, compute the same bits.
    """
    memory = engine.measured_layers()
    if not options.tune_seconds:
        return memory.measurements()
    tasks = tuning_tasks(graph, engine.target, options.plan)
    wanted = missing(tasks, memory)
    if wanted:
        result = engine.tune(tasks, wanted, options.tune_seconds)
        if result.left:
            _log.warning(
                "%s: %d of %d different layers are tuned after %g s, the others chosen by cost; compile again to go on",
                graph.name,
                len(tasks) - len(result.left),
                len(tasks),
                options.tune_seconds,
            )
    return memory.measurements()
