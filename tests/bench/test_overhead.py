"""The overhead protocol: the network is what it says, and the command leaves records of the usual form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import waterline
from waterline.bench import overhead, records
from waterline.bench.workload import flops
from waterline.reference import run
from waterline.report import tables


def test_the_network_has_twenty_layers_and_no_pass_merges_them() -> None:
    workload = overhead.workload()
    inputs = workload.inputs(1)
    net = waterline.compile(workload.model, num_threads=1)
    specs = [step.spec for step in net.plan.steps if step.spec is not None]
    assert len(specs) == overhead.LAYERS == 20
    assert {(spec.n, spec.c, spec.h, spec.w, spec.k, spec.taps) for spec in specs} == {(1, 8, 1, 1, 8, 1)}
    graph = workload.graph(1)
    assert flops(graph) == 20 * 2 * 8 * 8
    truth = run(graph, inputs)["output"]
    assert 1e-3 < np.abs(truth).max() < 1e3  # twenty layers neither fade nor overflow
    np.testing.assert_allclose(net(inputs["input"]), truth, rtol=1e-4, atol=1e-5)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "overhead.jsonl"
    assert overhead.main(["--threads", "1", "--vs", "onnxruntime", "--seconds", "1", "--append", str(path)]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert "us a call" in heading
    assert [line.split()[:2] for line in lines] == [["waterline", "1"], ["onnxruntime", "1"]]
    found = records.read(path)
    assert [record["engine"] for record in found] == ["waterline", "onnxruntime"]
    for record in found:
        assert (record["protocol"], record["model"], record["layers"]) == ("overhead", "overhead", 20)
        assert 0 < record["p10_ms"] <= record["median_ms"] <= record["p90_ms"] < 100
        assert record["commit"] is None or record["commit"]
        assert set(record["versions"]) == {"waterline", "onnxruntime"}
    assert len(tables.comparison(found).rows) == 2


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("--threads 0", "'0'", "--help"),
        ("--threads 1,two", "'two'", "--help"),
        ("--threads 4096", "4096", "at most"),
        ("--vs onxruntime", "'onxruntime'", "onnxruntime"),
        ("--seconds -1", "--seconds", "--help"),
        ("--frobnicate", "--frobnicate", "--help"),
        ("--append no/such/folder/file.jsonl", "no/such/folder/file.jsonl", "path"),
    ],
)
def test_a_mistake(arguments: str, message: str, hint: str, capsys: pytest.CaptureFixture) -> None:
    assert overhead.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert first.startswith("overhead: ")
    assert message in first
    assert second.startswith("hint: ")
    assert hint in second
    assert not out
