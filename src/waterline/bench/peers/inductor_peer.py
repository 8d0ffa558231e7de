"""PyTorch compiled by Inductor with frozen weights, its advice for inference on CPUs. Needs a C++ compiler."""

from __future__ import annotations

import torch
import torch._inductor.config

from waterline.bench.engine import Engine, Task
from waterline.bench.peers.torch_peer import load, run
from waterline.errors import InvalidArgument

# PyTorch compiles one function only so often (8 times), and then runs it uncompiled, with a warning. To it every
# network of every batch is the same function, `GraphModule.forward`: a comparison of many would end with eager PyTorch.
_UNLIMITED = {"recompile_limit": 10**6, "accumulated_recompile_limit": 10**6, "fail_on_recompile_limit_hit": True}


def prepare(task: Task) -> Engine:
    module, inputs = load(task)
    torch.set_num_threads(task.threads)  # compiled in: Inductor generates code for the number that is set
    with torch._inductor.config.patch(freezing=True), torch._dynamo.config.patch(_UNLIMITED):
        compiled = torch.compile(module, dynamic=False)
        try:
            run(compiled, inputs, task.threads)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error).strip().splitlines()[0]
            raise InvalidArgument(
                f"the peer 'inductor' cannot compile: {reason}", "it needs a C++ compiler; or leave it out of --vs"
            ) from error
    return Engine("inductor", torch.__version__, lambda: run(compiled, inputs, task.threads))
