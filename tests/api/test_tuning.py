"""The option `tune`: what it measures, what it remembers, and that results follow from what was measured alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import waterline
from waterline.api import environment
from waterline.api.compiling import make_plan
from waterline.api.options import TUNE_SECONDS, parse_options
from waterline.planner import Plan, Timing
from waterline.planner.measurements import layer_key
from waterline.runtime import tuning
from waterline.runtime.measured_layers import FILE_NAME, MeasuredLayer

from .networks import graph, image, model_proto, module

TUNE = {"tune": 1e3}  # small networks take far less


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine on which nothing was measured."""
    environment.machine()  # is not measured again
    monkeypatch.setenv("WATERLINE_CACHE_DIR", str(tmp_path))
    environment.measured_layers.cache_clear()
    yield tmp_path
    environment.measured_layers.cache_clear()


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Specs of the layers that are measured."""
    real, seen = tuning.Trial, []

    def trial(spec, offers, *rest):
        seen.append(spec.id)
        return real(spec, offers, *rest)

    monkeypatch.setattr(tuning, "Trial", trial)
    return seen


def measured(plan: Plan) -> list[bool]:
    layers = [layer for step in plan.steps for layer in step.layers if layer.spec is not None]
    return [layer.candidates[0].measured_seconds is not None for layer in layers]


def layers(plan: Plan) -> list[tuple[str, object]]:
    return [(step.kind, step.config) for step in plan.steps]


# ---- options --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "seconds"), [(False, 0.0), (True, TUNE_SECONDS), (0, 0.0), (0.0, 0.0), (1, 1.0), (2.5, 2.5)]
)
def test_seconds(value: float, seconds: float) -> None:
    assert parse_options({"tune": value}).tune_seconds == seconds
    assert parse_options(None).tune_seconds == 0.0


def test_known_measures_nothing(folder: Path, trials: list[str], caplog: pytest.LogCaptureFixture) -> None:
    plan = waterline.compile(graph(), options={"tune": "known"}).plan
    assert plan == waterline.compile(graph()).plan
    assert (trials, caplog.messages) == ([], [])


@pytest.mark.parametrize("value", ["soon", "Known", -1.0, float("nan"), [1], None])
def test_other_values_are_told_what_is_accepted(value: object) -> None:
    with pytest.raises(waterline.InvalidArgument) as caught:
        parse_options({"tune": value})
    assert "'known'" in caught.value.hint


# ---- what is measured -----------------------------------------------------------------------------------------------
def test_results_are_those_of_the_network(folder: Path) -> None:
    network, x = module(), torch.from_numpy(image())
    net = waterline.compile(network, x, options=TUNE)
    assert any(measured(net.plan))
    torch.testing.assert_close(net(x), network(x).detach(), rtol=1e-4, atol=1e-5)
    assert "measured" in net.explain()
    assert Plan.from_json(net.plan.to_json()) == net.plan


def test_what_was_measured_is_not_measured_again(folder: Path, trials: list[str]) -> None:
    first = waterline.compile(graph(), options=TUNE)
    assert trials
    trials.clear()
    environment.measured_layers.cache_clear()  # another process
    again = waterline.compile(graph(), options={"tune": True})
    assert trials == []
    assert again.plan == first.plan
    assert len((folder / FILE_NAME).read_text().splitlines()) == 1


def test_without_tune_nothing_is_measured_and_nothing_measured_counts(folder: Path, trials: list[str]) -> None:
    before = waterline.compile(graph()).plan
    key = layer_key(before.steps[-2].spec) if before.steps[-2].spec else ""
    slow = [c for c in before.steps[-2].candidates if c.seconds is not None][-1]
    timings = (Timing(slow.algorithm, slow.config, 1e-9),)
    environment.measured_layers().add(MeasuredLayer(key, 1, 1, timings))
    for options in (None, {}, {"tune": False}, {"tune": 0.0}):
        assert waterline.compile(graph(), options=options).plan == before
    assert trials == []
    tuned = waterline.compile(graph(), options=TUNE).plan
    assert trials == []
    assert tuned.steps[-2].kind == slow.algorithm
    assert waterline.compile(graph(), options={"tune": "known"}).plan == tuned
    assert trials == []
    assert make_plan(graph(), options={"tune": "known"}) == tuned
    assert make_plan(graph()) == before


def test_options_are_kept_apart(folder: Path, trials: list[str]) -> None:
    waterline.compile(graph(), options=TUNE)
    trials.clear()
    strict = waterline.compile(graph(), options={**TUNE, "accuracy": "strict"}).plan
    assert trials
    allowed = {"winograd:f4x4", "winograd:f6x6"}
    assert not {c.algorithm for s in strict.steps for c in s.candidates if c.measured_seconds} & allowed


def test_the_number_of_threads_and_the_batch_change_nothing(folder: Path) -> None:
    """The first call measures, under its own conditions; what it found holds for the machine."""
    x = image()
    one = waterline.compile(graph(), num_threads=1, options=TUNE)
    two = waterline.compile(graph(), num_threads=2, options=TUNE)
    many = waterline.compile(graph(shape=(3, *x.shape[1:])), num_threads=2, options=TUNE)
    assert layers(one.plan) == layers(two.plan) == layers(many.plan)
    results = [one(x), two(x), one(np.concatenate([x] * 3))[:1], many(np.concatenate([x] * 3))[2:]]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_another_batch_of_a_tuned_network_keeps_its_choice(folder: Path, trials: list[str]) -> None:
    net = waterline.compile(graph(), options=TUNE)
    trials.clear()
    x = image()
    alone = net(x)
    np.testing.assert_array_equal(net(np.concatenate([x, x]))[1:], alone)
    assert trials == []


def test_another_image_size_is_chosen_by_cost(folder: Path, trials: list[str]) -> None:
    net = waterline.compile(model_proto(), image(), options=TUNE)
    trials.clear()
    assert net(image(1, 3, 20, 20))[0].shape == (1, 8, 20, 20)
    assert trials == []


def test_when_the_time_ends_the_rest_is_chosen_by_cost(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = torch.from_numpy(image())
    with caplog.at_level(logging.WARNING, logger="waterline.tuning"):
        net = waterline.compile(module(), x, options={"tune": 1e-9})
    assert measured(net.plan).count(True) < len(measured(net.plan))
    assert "compile again to go on" in caplog.text
    caplog.clear()
    net = waterline.compile(module(), x, options=TUNE)
    assert "compile again" not in caplog.text
    assert all(measured(net.plan))


def test_an_interruption_reaches_the_caller_and_what_was_measured_is_kept(
    folder: Path, trials: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tuning.Trial

    def trial(*arguments):
        if len(environment.measured_layers().load()) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    x = torch.from_numpy(image())
    with monkeypatch.context() as patched:
        patched.setattr(tuning, "Trial", trial)
        with pytest.raises(KeyboardInterrupt):
            waterline.compile(module(), x, options=TUNE)
    assert len((folder / FILE_NAME).read_text().splitlines()) == 2
    seen = set(trials)
    trials.clear()
    waterline.compile(module(), x, options=TUNE)
    assert trials
    assert not seen & set(trials)


def test_a_damaged_file_is_as_good_as_none(folder: Path, trials: list[str]) -> None:
    (folder / FILE_NAME).write_bytes(b"\x00\xff not a line\n{}\n[1, 2]\n")
    net = waterline.compile(graph(), options=TUNE)
    assert trials
    assert all(measured(net.plan))


def test_without_a_cache_folder_the_process_remembers(
    folder: Path, trials: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATERLINE_CACHE_DIR", "")
    environment.measured_layers.cache_clear()
    first = waterline.compile(graph(), options=TUNE)
    trials.clear()
    assert waterline.compile(graph(), options=TUNE, num_threads=2).plan == first.plan
    assert trials == []
    assert list(folder.iterdir()) == []


def test_sessions_and_the_backend_of_pytorch_take_the_option(folder: Path, tmp_path: Path) -> None:
    session = waterline.Session(model_proto(12, 10).SerializeToString(), options=TUNE)
    assert session.run(["means"], {"x": image()})[0].shape == (1, 8, 1, 1)
    known = len(environment.measured_layers().load())
    assert known == 1
    network, x = module(), torch.from_numpy(image())
    with torch.inference_mode():
        fast = torch.compile(network, backend="waterline", options=TUNE)
        torch.testing.assert_close(fast(x), network(x), rtol=1e-4, atol=1e-5)
    assert len(environment.measured_layers().load()) > known


# ---- memory ---------------------------------------------------------------------------------------------------------
def test_a_limit_of_memory_takes_another_algorithm_and_tells_why(folder: Path) -> None:
    free = waterline.compile(graph(), options={"algorithms": ["im2col", "naive"]})
    needed = free.plan.arena_bytes
    net = waterline.compile(graph(), options={"algorithms": ["im2col", "naive"], "workspace_bytes": needed - 1})
    assert [s.algorithm for s in free.plan.steps if s.spec] == ["im2col"]
    assert [s.algorithm for s in net.plan.steps if s.spec] == ["naive"]
    assert net.plan.arena_bytes < needed
    assert f"workspace_bytes allows {needed - 1}" in net.explain()
    np.testing.assert_allclose(net(image()), free(image()), rtol=1e-4, atol=1e-5)
