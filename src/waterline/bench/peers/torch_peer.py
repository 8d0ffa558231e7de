"""PyTorch, eager: channels-last, no gradients. Its input is channels-last already, as a PyTorch user would have it."""

from __future__ import annotations

import numpy as np
import torch

from waterline.bench.engine import Engine, Task
from waterline.bench.peers.torch_graph import GraphModule
from waterline.frontends import onnx


def prepare(task: Task) -> Engine:
    module, inputs = load(task)
    return Engine("torch", torch.__version__, lambda: run(module, inputs, task.threads))


def load(task: Task) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """The module, and the task's inputs in its order."""
    graph = onnx.load(task.model, {name: value.shape for name, value in task.inputs.items()})
    inputs = []
    for name in graph.inputs:
        tensor = torch.from_numpy(np.ascontiguousarray(task.inputs[name]))
        inputs.append(tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor)
    return GraphModule(graph).eval(), inputs


def run(module: torch.nn.Module, inputs: list[torch.Tensor], threads: int) -> list[np.ndarray]:
    """One inference. The number of threads belongs to the process, so it is set for every call (it costs nothing)."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        return [result.numpy() for result in module(*inputs)]
