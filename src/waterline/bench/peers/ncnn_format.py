"""ncnn's own model format: a text that names layers and arrays, and the weights one behind the other.

Described in ncnn's docs/developer-guide/param-and-model-file-structure.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from waterline.graph.ops import Shape

Parameter = int | float | Sequence[int] | Sequence[float]

MAGIC = "7767517"
_ARRAY = -23300  # minus the number of a parameter that is an array
_SHAPES = 30  # the parameter that tells a layer the shapes of its outputs: it may choose its algorithm by them


@dataclass(frozen=True)
class Network:
    """What ncnn loads. `inputs` and `outputs` name its arrays, in the graph's order."""

    parameters: str
    weights: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Blob:
    """An array of ncnn: its name, and its shape without the batch, columns last as NumPy's."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Layer:
    kind: str
    inputs: Sequence[str]
    outputs: Sequence[Blob]
    parameters: dict[int, Parameter] = field(default_factory=dict)


def text_of(layers: Sequence[Layer], outputs: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The text of a network, and the names by which it knows its outputs."""
    layers, outputs = _split(layers, outputs)
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [MAGIC, f"{len(layers)} {blobs}", *(_line(layer, f"layer{i}") for i, layer in enumerate(layers))]
    return "\n".join(lines) + "\n", tuple(outputs)


def sizes(shape: Shape) -> dict[int, Parameter]:
    """Columns, rows, channels: how Input, Reshape and MemoryData are told a shape."""
    return dict(enumerate(reversed(shape)))


def _split(layers: Sequence[Layer], outputs: Sequence[str]) -> tuple[list[Layer], list[str]]:
    """Every array is read once: where more than one layer reads it, a Split makes names for them."""
    readers = Counter([name for layer in layers for name in layer.inputs] + list(outputs))
    used: Counter[str] = Counter()

    def name_for_reader(name: str) -> str:
        if readers[name] < 2:
            return name
        used[name] += 1
        return f"{name}_{used[name]}"

    done = []
    for layer in layers:
        done.append(replace(layer, inputs=[name_for_reader(name) for name in layer.inputs]))
        for blob in layer.outputs:
            if readers[blob.name] > 1:
                copies = [Blob(f"{blob.name}_{i}", blob.shape) for i in range(1, readers[blob.name] + 1)]
                done.append(Layer("Split", [blob.name], copies))
    return done, [name_for_reader(name) for name in outputs]


def _line(layer: Layer, name: str) -> str:
    shapes = [number for blob in layer.outputs for number in _hint(blob.shape)]
    parameters = {**layer.parameters, _SHAPES: shapes}
    words = [layer.kind, name, str(len(layer.inputs)), str(len(layer.outputs)), *layer.inputs]
    words += [blob.name for blob in layer.outputs]
    return " ".join(words + [_assignment(number, value) for number, value in parameters.items()])


def _assignment(number: int, value: Parameter) -> str:
    if isinstance(value, Sequence):
        return ",".join([f"{_ARRAY - number}={len(value)}", *map(_text, value)])
    return f"{number}={_text(value)}"


def _text(value: int | float) -> str:
    return f"{value:.9e}" if isinstance(value, float) else str(int(value))


def _hint(shape: Shape) -> list[int]:
    sizes = list(reversed(shape))
    return [len(shape), *sizes, *[1] * (3 - len(sizes))]
