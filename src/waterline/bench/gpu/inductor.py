"""Inductor: PyTorch's compiler, with frozen weights. Its own CUDA graphs are off: all variants are recorded alike.

`max-autotune` measures its kernels when it compiles, which takes minutes for a network; "default" does not, and is what
`reduce-overhead` runs in its graphs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch._dynamo
import torch._inductor.config
import torch._inductor.select_algorithm as select_algorithm

from waterline.bench.gpu.cases import Call

# What is asked of `torch.compile`.
MODES = {"max-autotune": "max-autotune-no-cudagraphs", "reduce-overhead": "default"}
# PyTorch compiles one function only so often, and then runs it uncompiled.
UNLIMITED = {"recompile_limit": 10**6, "accumulated_recompile_limit": 10**6, "fail_on_recompile_limit_hit": True}
LIMIT_S = 300.0  # after which it hangs
# Seconds that it may take: where less is left, it is left out.
NEEDED_S = {
    "max-autotune": {"layer": 25.0, "block": 40.0, "network": 100.0},
    "reduce-overhead": {"layer": 10.0, "block": 12.0, "network": 35.0},
}


def compiled(module: torch.nn.Module, inputs: Sequence[torch.Tensor], mode: str) -> Call:
    """A call of the module, compiled by its first run, which is made here."""
    torch._dynamo.reset()
    select_algorithm.PRINT_AUTOTUNE = False  # pages of text on stderr
    made = torch.compile(module, mode=MODES[mode], dynamic=False)

    def call() -> None:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            made(*inputs)

    with torch._inductor.config.patch(freezing=True), torch._dynamo.config.patch(UNLIMITED):
        call()
    return call


__all__ = ["LIMIT_S", "MODES", "NEEDED_S", "compiled"]
