"""ONNX Runtime: all optimisations, its own thread pool. Its workers spin between calls, as is its default."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection
from pathlib import Path

import onnxruntime

from waterline.bench.engine import Engine, Meter, Task

LAYOUT_CHANGES = ("ReorderInput", "ReorderOutput", "Transpose")


def prepare(task: Task) -> Engine:
    session = _session(task, _options(task))
    inputs = dict(task.inputs)
    return Engine("onnxruntime", onnxruntime.__version__, lambda: session.run(None, inputs))


def meter(task: Task, only: Collection[str] = ()) -> Meter:
    """By its profiler, which writes a file of one event a node and run, in whole microseconds.

    Args:
        only: the operators whose time counts; if empty, all but changes of layout.
    """
    folder = tempfile.TemporaryDirectory()
    options = _options(task)
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(folder.name) / "profile")
    session = _session(task, options)
    inputs = dict(task.inputs)

    def kernel_ns() -> list[float]:
        with folder:
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        runs: list[float] = []
        first = None
        for event in events:
            if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
                continue
            first = first or event["name"]
            if event["name"] == first:
                runs.append(0.0)
            kind = event["args"]["op_name"]
            if kind in only if only else kind not in LAYOUT_CHANGES:
                runs[-1] += 1e3 * event["dur"]
        return runs

    return Meter(lambda: session.run(None, inputs), kernel_ns)


def _options(task: Task) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return options


def _session(task: Task, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(task.model_bytes_or_path(), options, providers=["CPUExecutionProvider"])
