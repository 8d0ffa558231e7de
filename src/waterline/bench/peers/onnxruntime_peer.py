"""ONNX Runtime: all optimisations, its own thread pool. Its workers spin between calls, as is its default."""

from __future__ import annotations

import onnxruntime

from waterline.bench.engine import Engine, Task


def prepare(task: Task) -> Engine:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(task.model_bytes_or_path(), options, providers=["CPUExecutionProvider"])
    inputs = dict(task.inputs)
    return Engine("onnxruntime", onnxruntime.__version__, lambda: session.run(None, inputs))
