"""Compiles the launches of layers ahead of time, in a process where Triton compiles instead of interpreting.

    python gpu_ahead.py ALGORITHM PRECISION CAPABILITY CONFIGS SPEC...

prints a JSON list, one object a launch of the first so many configs of each layer. A block is the ids of its
convolutions and the names of `block_of`'s operators with commas between them.
"""

from __future__ import annotations

import json
import sys
from itertools import islice

from waterline.algorithms.gpu_registry import GPU_BLOCK_REGISTRY, GPU_REGISTRY
from waterline.graph.block import BlockLayer, BlockSpec
from waterline.graph.ops import Binary, Conv, LayerNorm, Op, Unary
from waterline.machine.gpu import A100, H200
from waterline.spec import Activation, ConvSpec, Epilogue

EPILOGUE = Epilogue(bias=True, before=Activation("silu"), residual=True)


def parse_block(text: str) -> BlockSpec:
    """A block whose convolutions all have biases, the last one a residual, the one before it an activation, and so has
    one before a depthwise one."""
    layers = [name if name in OPERATORS else ConvSpec.parse(name) for name in text.split(",")]
    made: list[ConvSpec | str] = []
    for number, layer in enumerate(layers):
        behind = layers[number + 1 :]
        is_active = len(behind) == 1 or any(isinstance(each, ConvSpec) and each.is_depthwise for each in behind[:1])
        epilogue = Epilogue(bias=True, residual=not behind, after=EPILOGUE.before if is_active else None)
        made.append(layer.with_epilogue(epilogue) if isinstance(layer, ConvSpec) else layer)
    return block_of(*made)


OPERATORS = ("norm", "scale", "add")


def block_of(*layers: ConvSpec | Activation | str) -> BlockSpec:
    """A block of layers that follow each other: convolutions, activations, "norm" (over channels), "scale" (of each
    channel) and "add". What is added is the block's own input where shapes allow it."""
    first = next(each for each in layers if isinstance(each, ConvSpec))
    inputs: list[tuple[int, ...]] = [(first.n, first.c, first.h, first.w)]
    made: list[tuple[Op, tuple[int, ...], tuple[int, ...], ConvSpec | None]] = []  # inner tensors as ~layer
    previous, shape = 0, inputs[0]

    def given(wanted: tuple[int, ...]) -> int:
        if len(wanted) == 4 and wanted == inputs[0]:
            return 0
        inputs.append(wanted)
        return len(inputs) - 1

    for each in layers:
        spec = each if isinstance(each, ConvSpec) else None
        vector = (shape[1],)
        if spec is not None:
            shape = (spec.n, spec.k, spec.p, spec.q)
            op: Op = Conv(spec.stride, spec.pad, spec.dilation, spec.groups, spec.epilogue)
            reads = (previous, given(shape)) if spec.epilogue.residual else (previous,)
        elif isinstance(each, Activation):
            op, reads = Unary(each), (previous,)
        elif each == "norm":
            op, reads = LayerNorm(3, 1e-6), (previous, given(vector), given(vector))
        else:
            is_scale = each == "scale"
            op = Binary("mul" if is_scale else "add")
            reads = (previous, given((*vector, 1, 1) if is_scale else shape))
        previous = ~len(made)
        made.append((op, reads, shape, spec))
    count = len(inputs)
    numbered = (
        BlockLayer(op, tuple(count + ~each if each < 0 else each for each in reads), output, spec)
        for op, reads, output, spec in made
    )
    return BlockSpec(tuple(inputs), tuple(numbered))


def main(name: str, precision: str, capability: int, configs: int, *texts: str) -> None:
    (algorithm,) = (each for each in (*GPU_REGISTRY, *GPU_BLOCK_REGISTRY) if each.name == name)
    gpu = H200 if capability >= 90 else A100
    found = []
    for text in texts:
        spec = parse_block(text) if "," in text else ConvSpec.parse(text).with_epilogue(EPILOGUE)
        for config in islice(algorithm.configs(spec, gpu, precision), configs):
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
                        "has_constant_loads": "ld.global.nc" in made.ptx,
                        "shared_bytes": made.shared_bytes,
                        "shared_limit": gpu.shared_bytes,
                        "registers": usage.registers,
                        "spilled_bytes": usage.spilled_bytes,
                    }
                )
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
