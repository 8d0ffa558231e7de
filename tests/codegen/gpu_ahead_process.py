"""Compiles the kernels of a layer at once, in a process where Triton compiles, for a GPU that there is not.

Prints JSON: the kernels that were asked for, those that were compiled then, those that were compiled when the same
launches were made ready with tensors, and those that were left when there was no time.
"""

from __future__ import annotations

import json

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from waterline.algorithms.indirect.gpu import INDIRECT_GPU
from waterline.algorithms.winograd.gpu import WINOGRAD_F2X2_GPU
from waterline.codegen.gpu.ahead import compile_ahead
from waterline.codegen.gpu.kernel import GpuLaunch
from waterline.machine.gpu import H200
from waterline.spec import ConvSpec

SPEC = ConvSpec.parse("n2_c32_h8_w8_k32_r3_s3_st1_pd1_dl1_g1")
PRECISION = "bf16"


class NoDevice:
    """What Triton asks of its driver before anything is launched."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def launches(algorithm) -> list[GpuLaunch]:
    config = algorithm.configs(SPEC, H200, PRECISION)[0]
    return list(algorithm.implement(SPEC, config, H200, PRECISION).launches)


def on_tensors(launch: GpuLaunch) -> None:
    """As `run` does, without starting it."""
    types = {"f32": torch.float32, "i32": torch.int32, PRECISION: torch.bfloat16}
    given = [
        torch.empty(64, dtype=types[launch.types.get(each, PRECISION)]) if isinstance(each, str) else each
        for each in launch.arguments
    ]
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    launch.function.warmup(*given, grid=launch.grid, **launch.constants, **options)


def main() -> None:
    driver.set_active(NoDevice())
    compiled: list[str] = []
    knobs.compilation.listener = lambda **given: compiled.append(given["src"].name)
    wanted = launches(WINOGRAD_F2X2_GPU)
    broken = GpuLaunch(wanted[0].function, (1,), ("x",), {})  # arguments are missing
    asked = compile_ahead([(launch, PRECISION) for launch in (*wanted, broken, *wanted)], 100.0)
    first = len(compiled)
    for launch in wanted:
        on_tensors(launch)
    again = len(compiled) - first
    late = compile_ahead([(launch, PRECISION) for launch in launches(INDIRECT_GPU)], 0.0)
    for launch in launches(INDIRECT_GPU):
        on_tensors(launch)
    print(json.dumps({"asked": asked, "compiled": first, "again": again, "late": late, "all": len(compiled)}))


if __name__ == "__main__":
    main()
