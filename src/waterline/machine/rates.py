"""`Rates`: what the roofline asks of whatever a network runs on."""

from __future__ import annotations

from typing import Any, Protocol


class Rates(Protocol):
    """A `Machine`, or a GPU as the planner sees it, where one core is the whole processor."""

    @property
    def name(self) -> str: ...
    @property
    def cores(self) -> int: ...
    @property
    def l3_share_bytes(self) -> int:
        """What a network can count on of the last cache before memory."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for records."""

    def peak(self, threads: int = 1) -> float:
        """Operations a second of so many cores."""

    def bytes_per_s(self, level: str, threads: int = 1) -> float:
        """Of "l2", "l3" or "dram"."""


__all__ = ["Rates"]
