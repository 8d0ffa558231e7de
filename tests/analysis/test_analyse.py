"""`waterline.analyse`, `CompiledNetwork.analyse` and `waterline analyse`, as a user meets them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from planner.networks import zoo

import waterline
from analysis.networks import bottleneck
from waterline.api.analysing import find_machine
from waterline.cli.main import entry
from waterline.errors import InvalidArgument
from waterline.machine import CATALOGUE


# ---- Python ---------------------------------------------------------------------------------------------------------
def test_of_a_machine_that_is_not_here():
    analysis = waterline.analyse(zoo("resnet18", 64), machine="phone with NEON", num_threads=2)
    assert isinstance(analysis, waterline.Analysis)
    assert analysis.machine == "phone with NEON, no L3"
    assert analysis.threads == 2
    own = waterline.analyse(zoo("resnet18", 64), machine=CATALOGUE[-1], num_threads=2)
    assert own == analysis


def test_of_this_machine():
    net = waterline.compile(bottleneck(16, 8, 8), num_threads=1)
    assert waterline.analyse(bottleneck(16, 8, 8), num_threads=1) == net.analyse()
    measured = net.analyse(np.zeros((1, 3, 8, 8), np.float32), seconds=0.01)
    assert measured.is_measured
    assert [layer.name for layer in measured.layers] == [step.name for step in net.plan.steps]
    batch = net.analyse(np.zeros((2, 3, 8, 8), np.float32), seconds=0.01)
    assert batch.batch == 2
    assert batch.flops == 2 * measured.flops


def test_options_and_shapes():
    graph = zoo("resnet18", 64)
    strict = waterline.analyse(graph, machine=CATALOGUE[0], options={"algorithms": ["indirect", "direct_gemm"]})
    assert {layer.algorithm for layer in strict.layers if layer.flops} <= {"indirect", "direct_gemm"}
    larger = waterline.analyse(graph, np.zeros((4, 3, 64, 64), np.float32), machine=CATALOGUE[0])
    assert larger.batch == 4


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda machine: machine.name)
def test_every_machine_is_found_by_its_name(machine):
    assert find_machine(machine.name) is machine
    assert find_machine(machine.name.upper()) is machine


def test_machines_are_found_by_parts_of_their_names():
    assert find_machine("amx") is CATALOGUE[0]
    assert find_machine("SSE2") is find_machine("any x86-64: SSE2 only")
    assert find_machine("phone neon").name == "phone with NEON, no L3"


@pytest.mark.parametrize(
    ("machine", "message", "hint"),
    [
        ("neon", "may be several", "server with NEON"),
        ("phone with NEOM", "no machine", "did you mean 'phone with NEON"),
        ("quantum", "no machine 'quantum'", "known are"),
        ("", "no machine ''", "known are"),
        (7, "machine is 7", "Machine"),
    ],
)
def test_machines_that_are_not_found(machine, message: str, hint: str):
    with pytest.raises(InvalidArgument) as error:
        find_machine(machine)
    assert message in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_threads": 57}, "57 threads"),
        ({"num_threads": 0}, "0 threads"),
        ({"num_threads": "two"}, "num_threads is 'two'"),
        ({"dtype": "float31"}, "float31"),
        ({"options": {"tune": True}}, "another machine"),
        ({"options": {"algoritms": []}}, "algoritms"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str):
    with pytest.raises(InvalidArgument, match=message):
        waterline.analyse(bottleneck(16, 8, 8), machine=CATALOGUE[0], **arguments)


def test_profiling_for_no_time():
    net = waterline.compile(bottleneck(16, 8, 8), num_threads=1)
    with pytest.raises(InvalidArgument, match="0 seconds"):
        net.analyse(np.zeros((1, 3, 8, 8), np.float32), seconds=0)


# ---- command line ---------------------------------------------------------------------------------------------------
@dataclass
class Result:
    status: int
    out: str
    err: str


Call = Callable[[str], Result]


@pytest.fixture
def call(capfd: pytest.CaptureFixture) -> Call:
    def run(line: str, *words: str) -> Result:
        capfd.readouterr()
        status = entry([*line.split(), *words])
        return Result(status, *capfd.readouterr())

    return run


SMALL = "squeezenet1_1 --image-size 64"


def test_text(call: Call):
    result = call(f"analyse {SMALL} --layers 3 --machine", "server with neon")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].endswith("on server with NEON: batch 1, 64 threads, predicted from the plan, nothing ran")
    assert lines[1].startswith("latency = operations / (peak x efficiency): ")
    assert "3 of 31 layers, by the time above the bound" in lines
    assert "Blocks that could be one kernel" in lines
    assert next(line for line in lines if line.startswith("features.3 ")).split()[1] == "3"
    everything = call(f"analyse {SMALL} --all --machine amx")
    assert re.search(r"^\d+ layers, by the time above the bound$", everything.out, re.MULTILINE)


def test_layers_that_lose_most_come_first(call: Call):
    plain = json.loads(call(f"analyse {SMALL} --predicted --json").out)
    worst = sorted(plain["layers"], key=lambda layer: -layer["lost_ns"])
    shown = call(f"analyse {SMALL} --predicted --layers 2").out.splitlines()
    first = next(i for i, line in enumerate(shown) if line.startswith("---")) + 1
    assert [line.split()[0] for line in shown[first : first + 2]] == [layer["name"] for layer in worst[:2]]


def test_json_is_the_analysis(call: Call):
    result = call(f"analyse {SMALL} --batch 2 --machine amx --json")
    plain = json.loads(result.out)
    assert (plain["machine"], plain["batch"], plain["is_measured"]) == (CATALOGUE[0].name, 2, False)
    assert plain["totals"]["flops"] == sum(layer["flops"] for layer in plain["layers"])


def test_markdown(call: Call):
    result = call(f"analyse {SMALL} --machine amx --markdown")
    assert result.out.startswith("* ")
    assert result.out.count("\n| :--- |") == 2


def test_measured(call: Call):
    result = call(f"analyse {SMALL} --seconds 0.05 --threads 1 --json")
    assert (result.status, result.err) == (0, "")
    plain = json.loads(result.out)
    assert plain["is_measured"]
    assert plain["threads"] == 1
    assert any(layer["phases"] for layer in plain["layers"])


def test_the_other_spelling(call: Call, capfd: pytest.CaptureFixture):
    helps = []
    for name in ("analyse", "analyze"):
        with pytest.raises(SystemExit):
            call(f"{name} --help")
        helps.append(capfd.readouterr().out)
    assert helps[0] == helps[1] != ""
    assert call(f"analyze {SMALL} --machine amx").out == call(f"analyse {SMALL} --machine amx").out


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("analyse", "MODEL", "--help"),
        ("analyse resnet15", "no network and no file named 'resnet15'", "resnet"),
        ("analyse resnet18 --machine quantum", "no machine 'quantum'", "known are"),
        ("analyse resnet18 --machine neon", "'neon' may be several", "server with NEON"),
        ("analyse resnet18 --machine", "--machine", "--help"),
        ("analyse resnet18 --machine amx --seconds 1", "nothing is measured", "--predicted"),
        ("analyse resnet18 --predicted --threads 0", "'0'", "--help"),
        (f"analyse {SMALL} --machine amx --threads 100", "100 threads", "1 to 56"),
        (f"analyse {SMALL} --machine amx --tuned", "another machine", "measured here"),
        ("analyse resnet18 --layers 0", "'0'", "--help"),
        ("analyse resnet18 --layers 3 --all", "not allowed with", "--help"),
        ("analyse resnet18 --json --markdown", "not allowed with", "--help"),
        ("analyse resnet18 --machin amx", "--machin", "--machine"),
        ("anaylse resnet18", "anaylse", "`waterline analyse`"),
    ],
)
def test_mistakes(call: Call, line: str, message: str, hint: str):
    result = call(line)
    assert (result.status, result.out) == (2, "")
    what, how = result.err.splitlines()
    assert message in what
    assert how.startswith("hint: ")
    assert hint in how
