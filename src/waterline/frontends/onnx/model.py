"""`Model`: an ONNX model that has been read, its weights still where they were."""

from __future__ import annotations

import mmap
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from waterline.errors import InvalidArgument, InvalidModel
from waterline.frontends.onnx.signature import Signature, describe
from waterline.frontends.onnx.storage import Blob, decode, one_line
from waterline.frontends.onnx.wire import strip

OLDEST_OPSET = 6


class Model:
    """A parsed model.

    Attributes:
        proto: the ModelProto, without the payloads of initializers where it came from a file or bytes.
        path: the file, or None.
    """

    def __init__(self, proto: onnx.ModelProto, blobs: list[Blob | None], path: Path | None) -> None:
        self.proto = proto
        self.path = path
        if not proto.HasField("graph"):
            raise InvalidModel("the model has no graph", "is this an ONNX file?")
        self._blobs = blobs
        self._decoded: dict[str, np.ndarray] = {}

    @cached_property
    def positions(self) -> dict[str, int]:
        """Initializer name -> its place in the graph's list. Raises InvalidModel for names that occur twice."""
        positions: dict[str, int] = {}
        for position, tensor in enumerate(self.proto.graph.initializer):
            if not tensor.name:
                raise InvalidModel(f"initializer {position} has no name")
            if tensor.name in positions:
                raise InvalidModel(f"two initializers are called {tensor.name!r}")
            positions[tensor.name] = position
        return positions

    def initializer(self, name: str) -> np.ndarray:
        """The elements; read on first use. Raises InvalidModel or RefusalError as `storage.decode` does."""
        if name not in self._decoded:
            position = self.positions[name]
            tensor, blob = self.proto.graph.initializer[position], self._blobs[position]
            self._decoded[name] = decode(tensor, blob, self.path, f"initializer {name!r}")
        return self._decoded[name]

    @cached_property
    def opsets(self) -> dict[str, int]:
        """Domain -> version; the standard operators' domain is written "". Raises InvalidModel for unknown versions."""
        return opset_versions(self.proto.opset_import)

    @cached_property
    def signature(self) -> Signature:
        graph = self.proto.graph
        inputs = [describe(info, "input") for info in graph.input if info.name not in self.positions]
        outputs = [describe(info, "output") for info in graph.output]
        for role, infos in (("input", inputs), ("output", outputs)):
            names: set[str] = set()
            for info in infos:
                if info.name in names:
                    raise InvalidModel(f"two {role}s of the model are called {info.name!r}")
                names.add(info.name)
        if not outputs:
            raise InvalidModel("the model has no outputs")
        return Signature(tuple(inputs), tuple(outputs))


def opset_versions(imports: Any) -> dict[str, int]:
    """Domain -> version of a list of OperatorSetIdProto."""
    newest = onnx.defs.onnx_opset_version()
    versions: dict[str, int] = {}
    for entry in imports:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        versions[domain] = max(entry.version, versions.get(domain, entry.version))
    standard = versions.get("")
    if standard is not None and not OLDEST_OPSET <= standard <= newest:
        raise InvalidModel(
            f"the model uses opset {standard} of the standard operators; {OLDEST_OPSET} to {newest} are read",
            "export it with another opset" if standard < OLDEST_OPSET else "a newer `onnx` package may know this opset",
        )
    return versions


def read(model: Any) -> Model:
    """Read a model.

    Args:
        model: the path of an .onnx file (external data beside it), its bytes, or an onnx.ModelProto.

    Raises:
        InvalidArgument: no such file, or a type that is none of these.
        InvalidModel: the bytes are no ONNX model.
    """
    if isinstance(model, (str, Path)):
        return _from_file(Path(model))
    if isinstance(model, (bytes, bytearray, memoryview)):
        view = memoryview(bytes(model) if not isinstance(model, bytes) else model)
        return _from_bytes(view, view, None)
    if isinstance(model, onnx.ModelProto):
        return Model(model, [None] * len(model.graph.initializer), None)
    raise InvalidArgument(
        f"a {type(model).__name__} is no ONNX model", "pass the path of a file, its bytes, or an onnx.ModelProto"
    )


def _from_file(path: Path) -> Model:
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise InvalidArgument(f"{str(path)!r} {what}", "pass the path of an .onnx file")
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise InvalidModel(f"{str(path)!r} is empty", "was the file downloaded whole?")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                return _from_bytes(view, path, path)
    except (OSError, ValueError) as error:
        if isinstance(error, (InvalidArgument, InvalidModel)):
            raise
        raise InvalidArgument(f"{str(path)!r} cannot be read: {one_line(error)}") from error


def _from_bytes(view: memoryview, source: Path | memoryview, path: Path | None) -> Model:
    skeleton, spans = strip(view)
    try:
        proto = onnx.ModelProto.FromString(skeleton)
    except (DecodeError, RecursionError) as error:
        raise InvalidModel(
            f"this is not an ONNX model, or it is damaged: {one_line(error)}", "was the file downloaded whole?"
        ) from error
    if len(proto.graph.initializer) != len(spans):
        raise InvalidModel("the model's initializers are damaged", "was the file downloaded whole?")
    blobs = [None if span is None else Blob(source, span.begin, span.length) for span in spans]
    return Model(proto, blobs, path)
