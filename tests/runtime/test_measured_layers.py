"""Measured layers on disk: what is foreign, old or damaged is as good as none, and nothing of it is an error."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from waterline.algorithms import GemmConfig
from waterline.machine import CATALOGUE
from waterline.planner import Timing
from waterline.runtime import measured_layers as module
from waterline.runtime.measured_layers import FILE_NAME, MeasuredLayer, MeasuredLayers, fingerprint

CONFIG = GemmConfig(6, 4, 4, 16, False)
OURS = fingerprint(CATALOGUE[0], "1.0")


def layer(key: str = "a", seconds: float = 1e-3, threads: int = 1) -> MeasuredLayer:
    timings = (Timing("indirect", CONFIG, seconds), Timing("im2col", CONFIG, None))
    return MeasuredLayer(key, threads, 1, timings)


@pytest.fixture
def memory(tmp_path: Path) -> MeasuredLayers:
    return MeasuredLayers(tmp_path / "cache", OURS)


def again(memory: MeasuredLayers, identity: str = OURS) -> dict[str, MeasuredLayer]:
    """What another process finds."""
    assert memory.path is not None
    return dict(MeasuredLayers(memory.path.parent, identity).load())


# ---- what it is for -------------------------------------------------------------------------------------------------
def test_layers_are_remembered(memory: MeasuredLayers) -> None:
    assert memory.load() == {}
    memory.add(layer("a"))
    b = replace(layer("b", threads=2), is_complete=False)
    memory.add(b)
    assert again(memory) == memory.load() == {"a": layer("a"), "b": b}
    assert memory.measurements().layers["a"] == layer("a").timings
    assert memory.path is not None
    assert memory.path.name == FILE_NAME
    assert len(memory.path.read_text().splitlines()) == 2
    assert stat.S_IMODE(memory.path.stat().st_mode) == 0o600


def test_the_last_line_of_a_layer_counts(memory: MeasuredLayers) -> None:
    memory.add(layer(seconds=2e-3))
    memory.add(layer(seconds=3e-3, threads=2))
    assert again(memory) == {"a": layer(seconds=3e-3, threads=2)}


def test_what_other_processes_add_is_found(memory: MeasuredLayers) -> None:
    memory.add(layer("a"))
    assert memory.path is not None
    MeasuredLayers(memory.path.parent, OURS).add(layer("b"))
    assert set(memory.load()) == {"a", "b"}


def test_without_a_folder_the_process_remembers() -> None:
    memory = MeasuredLayers(None, OURS)
    memory.add(layer())
    assert memory.load() == {"a": layer()}
    assert MeasuredLayers(None, OURS).load() == {}


# ---- whose it is ----------------------------------------------------------------------------------------------------
def test_other_machines_and_versions_are_not_believed(memory: MeasuredLayers) -> None:
    memory.add(layer())
    machine = CATALOGUE[0]
    others = [
        fingerprint(machine, "1.1"),
        fingerprint(replace(machine, l2_bytes=2 * machine.l2_bytes), "1.0"),
        fingerprint(replace(machine, cores=machine.cores + 1), "1.0"),
        fingerprint(replace(machine, features=machine.features - {max(machine.features)}), "1.0"),
        fingerprint(CATALOGUE[1], "1.0"),
    ]
    assert len({OURS, *others}) == 1 + len(others)
    for identity in others:
        assert again(memory, identity) == {}
    assert again(memory) == {"a": layer()}


def test_emitters_and_algorithms_are_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EMISSION_VERSION", 10**6)
    emitted = fingerprint(CATALOGUE[0], "1.0")
    monkeypatch.setattr(module, "REGISTRY", module.REGISTRY[1:])
    assert len({OURS, emitted, fingerprint(CATALOGUE[0], "1.0")}) == 3


def test_rates_are_not_part_of_the_identity() -> None:
    measured = replace(CATALOGUE[0], peak_flops_per_s=1e11, peak_all_flops_per_s=2e11, provenance="measured today")
    assert fingerprint(measured, "1.0") == OURS


# ---- damage ---------------------------------------------------------------------------------------------------------
def test_a_file_cut_anywhere_loses_the_last_line_only(memory: MeasuredLayers) -> None:
    memory.add(layer("a"))
    memory.add(layer("b"))
    assert memory.path is not None
    whole = memory.path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole) - 1):
        memory.path.write_bytes(whole[:length])
        assert set(again(memory)) == {"a"}
    MeasuredLayers(memory.path.parent, OURS).add(layer("c"))  # on a line of its own
    assert set(again(memory)) == {"a", "c"}


def damaged(**changes: Any) -> bytes:
    record = {
        "machine": OURS,
        "layer": "a",
        "threads": 1,
        "batch": 1,
        "is_complete": True,
        "timings": [["indirect", {"$": "GemmConfig", **vars(CONFIG)}, 1e-3]],
    }
    record |= changes
    return json.dumps({key: value for key, value in record.items() if value is not Ellipsis}).encode()


CONFIG_JSON = {"$": "GemmConfig", **vars(CONFIG)}
DAMAGED = {
    "empty": b"",
    "noise": bytes(range(256)),
    "no JSON": b"{",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "a number": b"1",
    "no machine": damaged(machine=...),
    "no layer": damaged(layer=...),
    "a layer that is a number": damaged(layer=3),
    "no threads": damaged(threads=...),
    "threads": damaged(threads="two"),
    "no images": damaged(batch=0),
    "complete or not": damaged(is_complete=...),
    "complete as a number": damaged(is_complete=1),
    "no timings": damaged(timings=[]),
    "timings": damaged(timings=3),
    "a timing of two": damaged(timings=[["indirect", CONFIG_JSON]]),
    "an unknown algorithm": damaged(timings=[["quantum", CONFIG_JSON, 1e-3]]),
    "an unknown variant": damaged(timings=[["winograd:f9x9", CONFIG_JSON, 1e-3]]),
    "an unknown class": damaged(timings=[["indirect", {"$": "Nothing"}, 1e-3]]),
    "an unknown field": damaged(timings=[["indirect", {**CONFIG_JSON, "depth": 3}, 1e-3]]),
    "no config": damaged(timings=[["winograd:f2x2", None, 1e-3]]),
    "no time": damaged(timings=[["indirect", CONFIG_JSON, 0.0]]),
    "a negative time": damaged(timings=[["indirect", CONFIG_JSON, -1.0]]),
    "a text for a time": damaged(timings=[["indirect", CONFIG_JSON, "1"]]),
    "NaN": damaged(timings=[["indirect", CONFIG_JSON, float("nan")]]),
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_is_passed_over(memory: MeasuredLayers, line: bytes) -> None:
    memory.add(layer("before"))
    assert memory.path is not None
    with open(memory.path, "ab") as file:
        file.write(line + b"\n")
    memory.add(layer("after"))
    assert set(again(memory)) == {"before", "after"}


def test_the_line_that_the_damaged_ones_are_made_of_is_whole(memory: MeasuredLayers) -> None:
    assert memory.path is not None
    memory.path.parent.mkdir()
    memory.path.write_bytes(damaged())
    assert set(again(memory)) == {"a"}


# ---- a disk that refuses --------------------------------------------------------------------------------------------
def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    memory = MeasuredLayers(tmp_path / "file", OURS)
    with caplog.at_level(logging.WARNING):
        memory.add(layer("a"))
        memory.add(layer("b"))
        assert set(memory.load()) == {"a", "b"}  # for this process
    assert len(caplog.records) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes are of POSIX")
def test_a_file_that_others_may_write_is_not_believed(memory: MeasuredLayers, caplog: pytest.LogCaptureFixture) -> None:
    memory.add(layer())
    assert memory.path is not None
    memory.path.chmod(0o666)
    with caplog.at_level(logging.WARNING):
        assert again(memory) == {}
    assert "may be written by others" in caplog.text


# ---- several processes ----------------------------------------------------------------------------------------------
def _add_many(folder: str, worker: int) -> None:
    memory = MeasuredLayers(Path(folder), OURS)
    for i in range(100):
        memory.add(layer(f"{worker}-{i}", seconds=1e-3 * (i + 1)))


def test_processes_that_append_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add_many, args=(str(tmp_path), worker)) for worker in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = MeasuredLayers(tmp_path, OURS).load()
    assert set(found) == {f"{worker}-{i}" for worker in range(2) for i in range(100)}
    assert found["1-99"].timings[0].seconds == pytest.approx(0.1)
