"""OpenVINO on the CPU for latency. Float32 is forced: on processors with BF16 its default would be less accurate."""

from __future__ import annotations

import openvino

from waterline.bench.engine import Engine, Task


def prepare(task: Task) -> Engine:
    core = openvino.Core()
    model = core.read_model(task.model_bytes_or_path())
    model.reshape({name: openvino.PartialShape(list(value.shape)) for name, value in task.inputs.items()})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": task.threads,
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    inputs = dict(task.inputs)

    def run() -> list:
        results = request.infer(inputs, share_inputs=True, share_outputs=True)
        return [results[i] for i in range(len(results))]

    return Engine("openvino", openvino.__version__.split("-")[0], run)
