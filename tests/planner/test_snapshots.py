"""What is chosen for well-known networks on described machines, written down, so that a change of it is seen.

A change that is meant is written down anew by one command, and reviewed as a difference of text:

    python tests/planner/test_snapshots.py
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from planner.networks import copies, zoo
from waterline.machine import CATALOGUE, Machine
from waterline.planner import plan

FOLDER = Path(__file__).parent / "snapshots"
NETWORKS = ("resnet50", "mobilenet_v2", "squeezenet1_0")
MACHINES = {"avx512": CATALOGUE[3], "avx2": CATALOGUE[5], "neon": CATALOGUE[8]}


def snapshot(network: str, machine: Machine) -> str:
    """The plan in few lines: totals, then runs of layers that are computed in the same way."""
    made = plan(zoo(network), machine)
    lines = [
        f"{network} on {machine.name}",
        f"{len(made.steps)} steps, {len(copies(made))} copies, {made.arena_bytes / 2**20:.2f} MiB between layers",
    ]
    for kind, steps in groupby(made.steps, key=lambda step: step.kind):
        names = [step.name for step in steps]
        lines.append(f"{kind}: {' '.join(names)}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("isa", MACHINES)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_plan_is_the_one_written_down(network: str, isa: str):
    expected = (FOLDER / f"{network}-{isa}.txt").read_text()
    assert snapshot(network, MACHINES[isa]) == expected, "if this is meant: python tests/planner/test_snapshots.py"


def test_no_snapshot_is_left_over():
    assert {path.name for path in FOLDER.iterdir()} == {f"{n}-{i}.txt" for n in NETWORKS for i in MACHINES}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for one in NETWORKS:
        for name, described in MACHINES.items():
            (FOLDER / f"{one}-{name}.txt").write_text(snapshot(one, described))
