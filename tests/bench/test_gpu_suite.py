"""The GPU suite as far as it goes without a GPU: every kernel is run and checked; and with a clock of the test's own,
how cases are timed, recorded, shared out and left."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from waterline.bench import records
from waterline.bench.gpu import measuring, timing, worker
from waterline.bench.gpu.cases import Case, Variant
from waterline.bench.gpu.measuring import Begun, Measuring, ProcessLostError
from waterline.bench.gpu.parts import PARTS, Part
from waterline.bench.gpu.place import Place
from waterline.bench.gpu.suite import PART_NAMES
from waterline.bench.gpu.worker import Task, Worker
from waterline.cli.main import entry
from waterline.runtime.gpu.device import INTERPRETED, Device

GPU = replace(INTERPRETED, l2_bytes=1024)
MILLISECONDS = {"fast": 0.001, "slow": 0.008}


@pytest.fixture
def place() -> Place:
    """The interpreter, where things are timed all the same."""
    return Place(Device(torch.device("cpu"), GPU), can_time=True)


class FakeRepeated:
    """A graph whose time is known: a call says it by its name. `asked` are the turns in order."""

    asked: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, call, times, device) -> None:
        if call.name == "cannot be recorded":
            raise RuntimeError("not in a graph")
        self.call, self.times = call, times

    def seconds(self) -> float:
        FakeRepeated.asked.append((self.call.name, self.times))
        return MILLISECONDS[self.call.name]


@pytest.fixture
def _fake_times(monkeypatch):
    FakeRepeated.asked = []
    monkeypatch.setattr(timing, "Repeated", FakeRepeated)


class NamedCall:
    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def __call__(self) -> None:
        self.count += 1


class Made(Case):
    """A case of variants that are given: name -> what its check says, or the error of building it."""

    protocol, precision, batch = "gpu layers", "f16", 1

    def __init__(self, name: str = "layer", needed_s: float = 0.0, **variants: float | Exception) -> None:
        self.name, self.given, self.needed_s = name, variants, needed_s
        self.calls: dict[str, NamedCall] = {}
        self.releases = 0

    @property
    def counted(self):
        return 10**9, 1e6

    def launches(self):
        return []

    def variants(self):
        for name, result in self.given.items():
            yield Variant("waterline", name.replace("_", " "), lambda n=name: self._build(n), check=self._check(result))

    def _check(self, result):
        return lambda: result

    def _build(self, name: str) -> NamedCall:
        if isinstance(self.given[name], Exception):
            raise self.given[name]
        self.calls[name] = NamedCall(name.replace("_", " "))
        return self.calls[name]

    def release(self) -> None:
        self.releases += 1


def measuring_at(place: Place, left_s: float = 100.0, refused: str = "") -> tuple[Measuring, list[Begun]]:
    told: list[Begun] = []
    return Measuring(place, told.append, lambda: left_s, lambda case, variant: refused), told


# ---- one case -------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("_fake_times")
def test_a_case_is_checked_timed_in_turns_and_recorded(place):
    case = Made(fast=0.5, slow=0.25)
    measured, told = measuring_at(place)
    fast, slow = measured.case(case)
    assert (fast["algorithm"], fast["disagreement"], fast["warm_ms"], fast["cold_ms"]) == ("fast", 0.5, 1.0, 1.0)
    assert slow["warm_ms"] == 8.0
    assert slow["effective_flops_per_s"] == pytest.approx(10**9 / 8e-3)
    assert slow["effective_bytes_per_s"] == pytest.approx(1e6 / 8e-3)
    assert (fast["warm_calls"], slow["warm_calls"]) == (4, 1)  # short calls are repeated within their graph
    assert len(fast["warm_samples"]) == len(fast["cold_samples"]) == timing.ROUNDS
    assert fast["cold_bytes_written"] == 4 * GPU.l2_bytes
    assert fast["bound_ms"] == pytest.approx(1e3 * max(1e9 / GPU.peak("f16"), 1e6 / GPU.memory_bytes_per_s))
    assert [each.variant for each in told] == ["waterline fast", "waterline slow"] * 2 + [""]
    assert case.releases == 1
    # After what a graph is asked for when it is made: rounds in which each variant is warm, then cold.
    turns = [name for name, _ in FakeRepeated.asked[-4 * timing.ROUNDS :]]
    rounds = [tuple(turns[i : i + 4]) for i in range(0, len(turns), 4)]
    assert set(rounds) == {("fast", "fast", "slow", "slow"), ("slow", "slow", "fast", "fast")}


@pytest.mark.usefixtures("_fake_times")
def test_what_is_wrong_or_fails_is_recorded_and_the_others_go_on(place):
    case = Made(fast=0.5, wrong=3.0, broken=RuntimeError("no such\n  instruction"), cannot_be_recorded=0.1)
    measured, _ = measuring_at(place)
    fast, wrong, broken, unrecorded = measured.case(case)
    assert fast["warm_ms"] == 1.0
    assert measuring.is_wrong(wrong)
    assert "warm_ms" not in wrong
    assert case.calls["wrong"].count == 1
    assert broken["error"] == "RuntimeError: no such instruction"
    assert (unrecorded["error"], "warm_ms" in unrecorded) == ("RuntimeError: not in a graph", False)
    json.dumps([fast, wrong, broken, unrecorded], allow_nan=False)


@pytest.mark.usefixtures("_fake_times")
def test_a_result_that_is_no_number_can_be_recorded(place):
    (record,) = measuring_at(place)[0].case(Made(fast=float("inf")))
    assert record["disagreement"] == measuring.WORST


def test_rounds_end_when_they_take_long(place, monkeypatch):
    monkeypatch.setattr(timing, "Repeated", FakeRepeated)
    turns = {"slow": timing.Turns(NamedCall("slow"), place)}
    clock = iter([0.0] + [100.0] * 20)
    times = timing.timed(turns, place, 0, lambda: next(clock))
    assert len(times["slow"].warm) == timing.LEAST_ROUNDS


def test_a_gpu_that_answers_no_more_ends_the_process(place, monkeypatch):
    def gone(self) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(Place, "synchronise", gone)
    with pytest.raises(ProcessLostError, match="illegal"):
        measuring_at(place)[0].case(Made(fast=0.5))


def test_what_is_refused_is_not_built(place):
    case = Made(fast=0.5)
    (record,) = measuring_at(place, refused="it ended the process")[0].case(case)
    assert record["error"] == "it ended the process"
    assert not case.calls


# ---- all cases ------------------------------------------------------------------------------------------------------
class Clock:
    """Every look takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def run_worker(place: Place, parts: list[Part], end_s: float, **task) -> tuple[list[str], list[dict]]:
    lines: list[dict] = []
    asked = Task("cuda", end_s, [part.name for part in parts], **task)
    left = Worker(asked, place, lines.append, Clock()).run(parts)
    return left, lines


def made_parts(count: int) -> list[Part]:
    return [
        Part(name, weight, lambda place, name=name: [Made(f"{name} {i}", fast=0.5) for i in range(count)])
        for name, weight in (("first", 3.0), ("second", 1.0))
    ]


@pytest.mark.usefixtures("_fake_times")
def test_parts_share_the_time_and_what_is_left_is_named(place):
    left, lines = run_worker(place, made_parts(12), 120.0)
    done = [line["case"] for line in lines if "case" in line]
    assert len(done) + len(left) == 24
    first = [key for key in done if "first" in key]
    second = [key for key in done if "second" in key]
    assert len(first) > 1.5 * len(second) > 0
    assert any("first" in key for key in left)
    assert done.index(second[0]) == len(first)  # one part after the other, each in its own order
    assert first == [f"gpu layers: first {i}, batch 1, f16" for i in range(len(first))]


@pytest.mark.usefixtures("_fake_times")
def test_what_a_part_leaves_is_the_others(place):
    parts = made_parts(10)
    few = Part("first", 3.0, lambda place: [Made("only", fast=0.5)])
    left, lines = run_worker(place, [few, parts[1]], 2000.0)
    assert left == []
    found = [record for line in lines if "case" in line for record in line["records"]]
    assert len(found) == 11
    assert all(record["machine"]["name"] == GPU.name and record["versions"]["torch"] for record in found)


@pytest.mark.usefixtures("_fake_times")
def test_a_case_that_needs_more_time_is_not_begun(place):
    part = Part("first", 1.0, lambda place: [Made("long", needed_s=1e4, fast=0.5), Made("short", fast=0.5)])
    left, lines = run_worker(place, [part], 200.0)
    assert left == ["gpu layers: long, batch 1, f16"]
    assert [line["case"] for line in lines if "case" in line] == ["gpu layers: short, batch 1, f16"]


@pytest.mark.usefixtures("_fake_times")
def test_a_later_process_goes_on_without_what_ended_the_first(place):
    part = Part("first", 1.0, lambda place: [Made(name, fast=0.5, slow=0.5) for name in ("a", "b", "c")])
    keys = {name: f"gpu layers: {name}, batch 1, f16" for name in "abc"}
    ended = [[keys["b"], "waterline fast"]]
    _, lines = run_worker(place, [part], 500.0, done=[keys["a"]], ended=ended, unprepared=[keys["b"]])
    found = {line["case"]: line["records"] for line in lines if "case" in line}
    assert list(found) == [keys["b"], keys["c"]]
    assert found[keys["b"]][0]["error"] == "it ended the process"
    assert "warm_ms" in found[keys["b"]][1]
    # Twice is enough for an algorithm.
    _, lines = run_worker(place, [part], 500.0, algorithms=[["gpu layers", "fast"]] * worker.TWICE)
    errors = [record.get("error", "") for line in lines if "case" in line for record in line["records"]]
    assert errors == ["left out: fast has ended the process 2 times", ""] * 3


def test_the_command_knows_the_parts_without_importing_them():
    assert tuple(part.name for part in PARTS) == PART_NAMES


# ---- the cases there are --------------------------------------------------------------------------------------------
def test_every_case_of_a_gpu_is_told_from_every_other():
    place = Place(Device(torch.device("cuda"), GPU), can_time=True)
    keys: list[str] = []
    for part in PARTS:
        found = [case.key for case in part.cases(replace(place, is_quick=True))]
        assert 0 < len(found) < len(part.cases(place))
        keys += [case.key for case in part.cases(place)]
    assert len(keys) == len(set(keys))
    for wanted in ("resnet50, batch 1", "convfirst_tiny, batch 256", "weight gradient", "convnext block", "n32_c512"):
        assert any(wanted in key for key in keys), wanted
    few = [case.key for part in PARTS for case in part.cases(replace(place, batches=(2,)))]
    assert all(", batch 2, " in key for key in few)


def test_everything_is_checked_in_the_interpreter(tmp_path, capfd):
    """In a process of its own, as on a GPU."""
    file, listed = tmp_path / "gpu.jsonl", tmp_path / "gpu.json"
    command = ["bench", "--device", "cuda", "--suite", "gpu", "--parts", "grouped,winograd", "--batch", "2"]
    assert entry([*command, "--seconds", "100", "--append", str(file), "--json", str(listed)]) == 0, capfd.readouterr()
    found = records.read(file)
    assert found == json.loads(listed.read_text())
    *found, summary = found
    assert summary["left"] == []
    assert {record["algorithm"] for record in found} == {"grouped", "indirect", "winograd:f2x2", "winograd:f4x4"}
    assert {record.get("data") for record in found} == {"forward", "data gradient", "weight gradient", None}
    assert all(0 < record["disagreement"] <= 1 and "warm_ms" not in record for record in found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "gpu"], "is a GPU's"),
        (["--device", "cuda"], "nothing to measure"),
        (["--device", "cuda", "resnet18", "--vs", "torch"], "engines on the CPU"),
        (["--device", "cuda", "--suite", "all"], "the suite 'all'"),
        (["--device", "cuda", "--suite", "gpu", "resnet18"], "its own networks"),
        (["--device", "cuda", "--suite", "gpu", "--parts", "some"], "no part 'some'"),
        (["--quick", "resnet18"], "--quick belongs"),
        (["--device", "cuda:x", "--suite", "gpu"], "cannot run"),
    ],
)
def test_mistakes(words, message, capfd):
    assert entry(["bench", *words]) == 2
    assert message in capfd.readouterr().err
