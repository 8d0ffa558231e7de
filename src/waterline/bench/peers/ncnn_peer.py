"""ncnn on the CPU: float32 throughout, packed layout, Winograd and im2col as it chooses. One image at a time.

Its wheel reads its own format only, so the network is written in it (`ncnn_writer`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import ncnn
import numpy as np

from waterline.bench.engine import Engine, Task
from waterline.bench.peers.ncnn_format import Network
from waterline.bench.peers.ncnn_writer import write
from waterline.errors import Error
from waterline.frontends import onnx
from waterline.graph import passes


def prepare(task: Task) -> Engine:
    graph = passes.simplify(onnx.load(task.model, {name: value.shape for name, value in task.inputs.items()}))
    network = write(graph)
    net = load(network, task.threads)
    inputs = [np.ascontiguousarray(task.inputs[name][0]) for name in graph.inputs]
    shapes = [graph.shapes[name] for name in graph.outputs]

    def run() -> list[np.ndarray]:
        extractor = net.create_extractor()
        for name, value in zip(network.inputs, inputs, strict=True):
            extractor.input(name, ncnn.Mat(value).clone())  # layers may compute in place, in memory that is ncnn's
        results = []
        for name, shape in zip(network.outputs, shapes, strict=True):
            status, result = extractor.extract(name)
            if status != 0:
                raise Error(f"ncnn failed with status {status}", "leave it out of --vs")
            results.append(np.array(result).reshape(shape))
        return results

    return Engine("ncnn", ncnn.__version__, run)


def load(network: Network, threads: int) -> ncnn.Net:
    """The network, ready to run on so many threads.

    Raises:
        Error: ncnn does not accept it.
    """
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    net.opt.use_packing_layout = True
    # Fewer bits would be faster, and another comparison.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
    if net.load_param_mem(network.parameters) != 0:
        raise Error("ncnn does not accept the network that was written for it", "leave it out of --vs")
    with tempfile.TemporaryDirectory(prefix="waterline-ncnn-") as folder:
        path = Path(folder) / "weights.bin"  # its reader of memory keeps pointers into what Python may move away
        path.write_bytes(network.weights)
        if net.load_model(str(path)) != 0:
            raise Error("ncnn does not accept the weights that were written for it", "leave it out of --vs")
    return net
