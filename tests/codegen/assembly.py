"""Reads assembly: functions, innermost loops, and what registers are kept on the stack."""

from __future__ import annotations

import re
from dataclasses import dataclass

from waterline.machine import Machine

# What one multiply-add of a whole vector is: mnemonic and register. Without FMA it is two instructions.
MULTIPLY_ADD = {
    "avx512": r"\bvfmadd\d+ps\b.*%zmm",
    "avx2": r"\bvfmadd\d+ps\b.*%ymm",
    "avx": r"\bvmulps\b.*%ymm",
    "sse2": r"\bmulps\b.*%xmm",
    "neon": r"\bfmla\b.*\.4s",
}
# Registers and instructions that a machine does not have.
FORBIDDEN = {
    "avx512": r"(?!)",  # nothing
    "avx2": r"%zmm|%k[0-7]\b",
    "avx": r"%zmm|%k[0-7]\b|\bvfm|\bvpermps|\bvpermd\b|\bvpbroadcast|\bvbroadcastss\s+%xmm",
    "sse2": r"%zmm|%ymm|%k[0-7]\b|^\s*v[a-z]",
    "neon": r"\bz\d+\.s|\bsve",
}
_VECTOR = re.compile(r"%[xyz]mm\d+|\b[qv]\d+\b|\bd\d+\b")
_STACK = re.compile(r"\(%[re]sp\)|\(%[re]sp,|\[sp\b|[Ss]pill|[Rr]eload")
_LABEL = re.compile(r"^(\.?L\w+):")
_BRANCH = re.compile(r"^\s*(?:j[a-z]+|b(?:\.[a-z]+)?|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.?L\w+)\b")


@dataclass(frozen=True)
class Loop:
    """The lines from a label to the branch back to it."""

    function: str
    lines: tuple[str, ...]

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, line)) for line in self.lines)

    def spills(self) -> list[str]:
        """Lines that move vector registers from or to the stack."""
        return [line.strip() for line in self.lines if _VECTOR.search(line) and _STACK.search(line)]


def functions(assembly: str) -> dict[str, list[str]]:
    """Name -> lines."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in assembly.splitlines():
        match = re.match(r"^_?([A-Za-z]\w*):", line)
        if match and not line.startswith("L"):
            lines = found.setdefault(match[1], [])
        lines.append(line)
    return found


def innermost_loops(assembly: str) -> list[Loop]:
    found = []
    for name, lines in functions(assembly).items():
        labels = {m[1]: i for i, line in enumerate(lines) if (m := _LABEL.match(line))}
        spans = []
        for i, line in enumerate(lines):
            match = _BRANCH.match(line)
            if match and labels.get(match[1], i + 1) <= i:
                spans.append((labels[match[1]], i))
        for first, last in spans:
            if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in spans):
                found.append(Loop(name, tuple(lines[first : last + 1])))
    return found


def hottest_loop(assembly: str, machine: Machine) -> Loop:
    """The innermost loop with the most multiply-adds."""
    return max(innermost_loops(assembly), key=lambda loop: loop.count(MULTIPLY_ADD[machine.isa]))
