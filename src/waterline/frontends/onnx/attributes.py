"""`Attributes`: the one typed way to a node's attributes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from waterline.errors import InvalidModel

AttributeProto = onnx.AttributeProto


class Attributes:
    """A node's attributes by name.

    Args:
        protos: AttributeProtos of the node.
        bound: inside a model-local function, the attributes its caller gave; what refers to them is looked up there.

    Each reader returns the default where the attribute is absent, and raises InvalidModel where its type is another.
    """

    def __init__(
        self, protos: Iterable[onnx.AttributeProto], bound: Mapping[str, onnx.AttributeProto] | None = None
    ) -> None:
        self.protos: dict[str, onnx.AttributeProto] = {}
        for proto in protos:
            if proto.ref_attr_name:
                if bound is not None and proto.ref_attr_name in bound:
                    self.protos[proto.name] = bound[proto.ref_attr_name]
            else:
                self.protos[proto.name] = proto

    def __contains__(self, name: str) -> bool:
        return name in self.protos

    def integer(self, name: str, default: int) -> int:
        proto = self._get(name, AttributeProto.INT)
        return default if proto is None else proto.i

    def number(self, name: str, default: float) -> float:
        proto = self._get(name, AttributeProto.FLOAT)
        return default if proto is None else proto.f

    def text(self, name: str, default: str) -> str:
        proto = self._get(name, AttributeProto.STRING)
        return default if proto is None else proto.s.decode("utf-8", "replace")

    def integers(self, name: str, default: Iterable[int] = ()) -> tuple[int, ...]:
        proto = self._get(name, AttributeProto.INTS)
        return tuple(default) if proto is None else tuple(proto.ints)

    def numbers(self, name: str) -> tuple[float, ...]:
        proto = self._get(name, AttributeProto.FLOATS)
        return () if proto is None else tuple(proto.floats)

    def tensor(self, name: str) -> onnx.TensorProto | None:
        """The TensorProto, or None."""
        proto = self._get(name, AttributeProto.TENSOR)
        return None if proto is None else proto.t

    def graph(self, name: str) -> onnx.GraphProto | None:
        """The GraphProto, or None."""
        proto = self._get(name, AttributeProto.GRAPH)
        return None if proto is None else proto.g

    def _get(self, name: str, kind: int) -> onnx.AttributeProto | None:
        proto = self.protos.get(name)
        if proto is None:
            return None
        if proto.type != kind:
            kinds = AttributeProto.AttributeType
            given = kinds.Name(proto.type) if proto.type in kinds.values() else proto.type
            raise InvalidModel(f"attribute {name!r} has the type {given} where {kinds.Name(kind)} is expected")
        return proto
