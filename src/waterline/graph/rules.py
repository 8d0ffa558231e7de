"""What the rules for shapes share."""

from __future__ import annotations

from waterline.errors import InvalidModel

Shape = tuple[int, ...]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidModel(message)


def arity(inputs: list[Shape], count: int) -> None:
    require(len(inputs) == count, f"has {len(inputs)} inputs where {count} are expected")


def broadcast(*shapes: Shape) -> Shape:
    """NumPy's broadcasting rule. Raises InvalidModel where the shapes do not fit."""
    rank = max((len(s) for s in shapes), default=0)
    out = []
    for sizes in zip(*((1,) * (rank - len(s)) + tuple(s) for s in shapes), strict=True):
        wide = {d for d in sizes if d != 1}
        require(len(wide) <= 1, f"shapes {', '.join(map(str, shapes))} do not broadcast")
        out.append(wide.pop() if wide else 1)
    return tuple(out)
