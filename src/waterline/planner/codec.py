"""Frozen dataclasses and enumerations to JSON and back: an object with its class's name under "$"; tuples are lists."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, get_type_hints

from waterline.algorithms import REGISTRY_CONFIGS
from waterline.graph import ops
from waterline.spec import Activation, ConvSpec, Epilogue, TensorView

_classes: dict[str, type] = {}


def register(kind: type) -> None:
    """A dataclass, and the enumerations among the types of its fields."""
    _classes[kind.__name__] = kind
    for hint in get_type_hints(kind).values():
        if isinstance(hint, type) and issubclass(hint, Enum):
            _classes[hint.__name__] = hint


for _kind in (Activation, ConvSpec, Epilogue, TensorView, *REGISTRY_CONFIGS):
    register(_kind)
for _value in list(vars(ops).values()):
    if isinstance(_value, type) and issubclass(_value, ops.Op):
        register(_value)


def encode(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"$": type(value).__name__} | {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):  # one whose field is declared as text reads back as text, which is equal to it
        is_known = _classes.get(type(value).__name__) is type(value)
        return {"$": type(value).__name__, "value": value.value} if is_known else value.value
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {key: encode(v) for key, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$": "float", "value": str(value)}
    return value


def decode(value: Any) -> Any:
    """Raises KeyError for an unknown class, TypeError for unknown or missing fields, ValueError for unknown values."""
    if isinstance(value, list):
        return tuple(decode(v) for v in value)
    if isinstance(value, dict):
        name = value.get("$")
        if name is None:
            return {key: decode(v) for key, v in value.items()}
        if name == "float":
            return float(value["value"])
        return _classes[name](**{key: decode(v) for key, v in value.items() if key != "$"})
    return value
