"""The ONNX front end: a file, bytes or an onnx.ModelProto become a `Graph`.

The way of a model: `model.read` parses it without its weights (`wire`, `storage`), `signature.resolve` gives every
input whole-number sizes, `importer` walks the nodes and calls a converter for each (`table`, and one module for each
family of operators), `builder` collects the results or computes them at once where everything is known (`evaluation`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx

from waterline.errors import Error, InvalidModel
from waterline.frontends.onnx.importer import MISTAKES, Importer
from waterline.frontends.onnx.model import read
from waterline.frontends.onnx.signature import Signature, TensorInfo, resolve
from waterline.frontends.onnx.storage import one_line
from waterline.frontends.onnx.table import CONVERTERS
from waterline.graph import Graph

__all__ = ["Signature", "TensorInfo", "load", "operators", "signature"]


def load(model: str | Path | bytes | onnx.ModelProto, input_shapes: Mapping[str, Iterable[int]] | None = None) -> Graph:
    """Read an ONNX model of the opsets 6 to the newest that the installed `onnx` knows.

    Args:
        model: the path of an .onnx file (external data is looked for beside it), its bytes, or an onnx.ModelProto.
        input_shapes: input name -> shape, for sizes that are symbolic in the model. A batch that nothing tells is 1.

    Returns:
        The network for these shapes, in the model's layout (NCHW). Constants may be read-only, memory-mapped (external
        data) or transposed views.

    Raises:
        InvalidArgument: no such file; an input's size that is symbolic and not given.
        InvalidModel: the file is damaged, or contradicts itself.
        UnsupportedOperator: names everything in the model that is not computed.
    """
    try:
        parsed = read(model)
        return Importer(parsed, resolve(parsed.signature.inputs, input_shapes)).run()
    except Error:
        raise
    except MISTAKES as error:
        raise InvalidModel(f"the model is damaged: {one_line(error)}") from error


def signature(model: str | Path | bytes | onnx.ModelProto) -> Signature:
    """The inputs and outputs of a model, with symbolic sizes kept. Raises as `load` does."""
    try:
        return read(model).signature
    except Error:
        raise
    except MISTAKES as error:
        raise InvalidModel(f"the model is damaged: {one_line(error)}") from error


def operators() -> list[str]:
    """The names of the operators that are supported, some of them (shape arithmetic) on constants only."""
    return sorted([*CONVERTERS, "If"])
