"""Compiles the launches of layers ahead of time, in a process where Triton compiles instead of interpreting.

    python gpu_ahead.py ALGORITHM PRECISION CAPABILITY SPEC...

prints a JSON list, one object a launch of the first configs of each layer.
"""

from __future__ import annotations

import json
import sys
from itertools import islice

from waterline.algorithms.gpu_registry import GPU_REGISTRY
from waterline.machine.gpu import A100, H200
from waterline.spec import Activation, ConvSpec, Epilogue

CONFIGS = 2
EPILOGUE = Epilogue(bias=True, before=Activation("silu"), residual=True)


def main(name: str, precision: str, capability: int, *texts: str) -> None:
    (algorithm,) = (each for each in GPU_REGISTRY if each.name == name)
    gpu = H200 if capability >= 90 else A100
    found = []
    for text in texts:
        spec = ConvSpec.parse(text).with_epilogue(EPILOGUE)
        for config in islice(algorithm.configs(spec, gpu, precision), CONFIGS):
            for launch in algorithm.implement(spec, config, gpu, precision).launches:
                made = launch.compile(precision, capability)
                usage = made.usage()
                found.append(
                    {
                        "layer": text,
                        "config": str(config),
                        "kernel": launch.function.__name__,
                        "matrix_instructions": sorted(made.matrix_instructions),
                        "has_bulk_copies": made.has_bulk_copies,
                        "shared_bytes": made.shared_bytes,
                        "shared_limit": gpu.shared_bytes,
                        "registers": usage.registers,
                        "spilled_bytes": usage.spilled_bytes,
                    }
                )
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
