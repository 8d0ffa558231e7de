"""Tuning: every layer once, within a budget, interrupted and resumed. With made-up times, then with real ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from programs import LOCAL, NO_CACHE, network

from waterline.errors import Error, Refused
from waterline.planner import PlanOptions, TuningTask, plan, tuning_tasks
from waterline.planner.choice import Offer, offers
from waterline.runtime import tuning
from waterline.runtime.measured_layers import MeasuredLayers
from waterline.runtime.trial import MOST_DISPLACED_BYTES, ROW_ELEMS, Displacement, Trial
from waterline.runtime.tuning import LEAST_ROUNDS, MOST_ROUNDS, OnProgress, Progress, Tuned, missing, tune
from waterline.spec import Activation, ConvSpec, Epilogue

TASKS = tuning_tasks(network(), LOCAL)
ORDER = sorted(TASKS, key=lambda task: (len(task.candidates) == 1, -task.weight))  # in which they are measured


class Clock:
    """Seconds pass only when a trial runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class MadeUp:
    """In the place of `Trial`: candidates take the seconds that `times` says, by their place in the task.

    The clock: a turn of all candidates takes `round_seconds`, to prepare a candidate `prepare_seconds`.
    """

    def __init__(self, times: Callable[[int], float], round_seconds: float = 1.0) -> None:
        self.times = times
        self.clock = Clock()
        self.round_seconds = round_seconds
        self.prepare_seconds = 0.0
        self.prepared: list[tuple[ConvSpec, int]] = []
        self.runs: list[tuple[ConvSpec, int]] = []
        self.unable: set[int] = set()

    def __call__(self, spec: ConvSpec, offers: Sequence[Offer], *_: object) -> MadeUp:
        candidates = next(task.candidates for task in TASKS if task.spec == spec)
        self.spec, self.indices = spec, [candidates.index(offer) for offer in offers]
        new = [(spec, index) for index in self.indices if (spec, index) not in self.prepared]
        self.prepared += new
        self.clock.now += self.prepare_seconds * len(new)
        if self.unable & set(self.indices):
            raise Refused("there is no room")
        return self

    def run(self, threads: int) -> np.ndarray:
        self.clock.now += self.round_seconds
        self.runs.append((self.spec, len(self.indices)))
        return np.array([self.times(index) for index in self.indices])


@pytest.fixture
def memory() -> MeasuredLayers:
    return MeasuredLayers(None, "test")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    trial = MadeUp(lambda index: 1e-3 * (1 + index / 100))
    monkeypatch.setattr(tuning, "Trial", trial)
    return trial


def run(
    memory: MeasuredLayers,
    trial: MadeUp,
    seconds: float = float("inf"),
    on_progress: OnProgress | None = None,
    wanted: Sequence[TuningTask] | None = None,
) -> Tuned:
    wanted = missing(TASKS, memory) if wanted is None else wanted
    given = (TASKS, wanted, memory, LOCAL, NO_CACHE)
    return tune(*given, threads=1, seconds=seconds, on_progress=on_progress, clock=trial.clock)


# ---- the order of things --------------------------------------------------------------------------------------------
def test_every_layer_is_measured_once(memory: MeasuredLayers, made_up: MadeUp) -> None:
    told: list[Progress] = []
    result = run(memory, made_up, on_progress=told.append)
    assert set(result.measured) == {task.key for task in TASKS}
    assert (result.known, result.left) == ((), ())
    specs = [spec for spec, _ in made_up.runs]
    assert len(set(specs)) == len(TASKS)
    assert sum(a != b for a, b in itertools.pairwise(specs)) == len(TASKS) - 1  # one after the other
    assert [t.task for t in told if t.rounds == 0] == ORDER
    assert [t.done for t in told if t.rounds == 0] == list(range(len(TASKS)))
    for task in TASKS:
        layer = memory.load()[task.key]
        assert (layer.threads, layer.batch) == (1, 1)
        assert [(t.label, t.config) for t in layer.timings] == [(o.label, o.config) for o in task.candidates]


def test_times_are_of_one_image(memory: MeasuredLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tuning_tasks(network(batch=4), LOCAL)
    monkeypatch.setattr(tuning, "Trial", lambda spec, offers, *_: _Constant(len(offers), 8e-3))
    tune(tasks[:1], tasks[:1], memory, LOCAL, NO_CACHE, threads=2, seconds=1e9)
    (layer,) = memory.load().values()
    assert (layer.threads, layer.batch) == (2, 4)
    assert {timing.seconds for timing in layer.timings} == {2e-3}


class _Constant:
    def __init__(self, count: int, seconds: float) -> None:
        self.values = np.full(count, seconds)

    def run(self, threads: int) -> np.ndarray:
        return self.values


def test_a_candidate_that_is_clearly_slower_is_left_out_early(
    memory: MeasuredLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = MadeUp(lambda index: 1e-3 if index < 2 else 2e-3)
    monkeypatch.setattr(tuning, "Trial", trial)
    run(memory, trial)
    for task in (task for task in TASKS if len(task.candidates) > 2):
        counts = [count for spec, count in trial.runs if spec == task.spec]
        assert counts[:3] == [len(task.candidates)] * 3  # the first is not counted
        assert set(counts[3:]) == {2}
        assert len(counts) - 2 >= LEAST_ROUNDS
        times = [timing.seconds for timing in memory.load()[task.key].timings]
        assert times == [1e-3] * 2 + [2e-3] * (len(task.candidates) - 2)


def test_rounds_of_other_programs_do_not_decide(memory: MeasuredLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first candidate is the fastest in most rounds and disturbed in some."""
    calls = {"count": 0}

    def times(index: int) -> float:
        calls["count"] += index == 0
        disturbed = index == 0 and calls["count"] % 4 == 0
        return 9e-3 if disturbed else 1e-3 + 1e-5 * index

    trial = MadeUp(times)
    monkeypatch.setattr(tuning, "Trial", trial)
    run(memory, trial)
    for task in TASKS:
        assert memory.load()[task.key].timings[0].config == task.candidates[0].config


# ---- the budget -----------------------------------------------------------------------------------------------------
def test_layers_that_the_time_does_not_reach_are_left(memory: MeasuredLayers, made_up: MadeUp) -> None:
    seconds = 2 * (LEAST_ROUNDS + 1) - 0.5
    result = run(memory, made_up, seconds=seconds)
    order = [task.key for task in ORDER]
    assert result.measured == tuple(order[: len(result.measured)])
    assert set(result.left) == set(order[len(result.measured) :])
    assert 1 <= len(result.measured) < len(TASKS)
    assert {key for key, layer in memory.load().items() if layer.is_complete} == set(result.measured)
    assert made_up.clock.now <= seconds + 1  # a round


def test_the_last_layer_stops_between_two_rounds_and_keeps_what_it_has(memory: MeasuredLayers, made_up: MadeUp) -> None:
    first = ORDER[0]
    result = run(memory, made_up, seconds=3.5)
    assert made_up.clock.now == 4.0  # the first turn is not counted
    assert result.measured == ()
    assert set(result.left) == {task.key for task in TASKS}
    (layer,) = memory.load().values()
    assert (layer.key, layer.is_complete) == (first.key, False)
    assert [(t.label, t.config) for t in layer.timings] == [(o.label, o.config) for o in first.candidates]
    assert missing(TASKS, memory) == TASKS
    assert first.key in run(memory, made_up).measured
    assert memory.load()[first.key].is_complete


def test_the_last_layer_stops_between_two_candidates(memory: MeasuredLayers, made_up: MadeUp) -> None:
    """There is time to prepare two of the first layer's candidates: nothing is measured without the others."""
    first = ORDER[0]
    assert len(first.candidates) > 3
    made_up.prepare_seconds = 10.0
    result = run(memory, made_up, seconds=15.0)
    assert made_up.clock.now == 20.0
    assert made_up.prepared == [(first.spec, 0), (first.spec, 1)]
    assert made_up.runs == []
    assert memory.load() == {}
    assert set(result.left) == {task.key for task in TASKS}


def test_an_incomplete_layer_does_not_replace_a_complete_one(memory: MeasuredLayers, made_up: MadeUp) -> None:
    run(memory, made_up)
    before = dict(memory.load())
    result = run(memory, made_up, seconds=3.5, wanted=TASKS)
    assert set(result.left) == {task.key for task in TASKS}
    assert memory.load() == before


def test_without_time_nothing_is_measured(memory: MeasuredLayers, made_up: MadeUp) -> None:
    assert run(memory, made_up, seconds=0.0).measured == ()
    assert made_up.runs == []


def test_important_layers_get_more_of_the_time(memory: MeasuredLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = MadeUp(lambda index: 1e-3)
    monkeypatch.setattr(tuning, "Trial", trial)
    run(memory, trial, seconds=2.0 * (LEAST_ROUNDS + 2) * len(TASKS))
    rounds = [sum(spec == task.spec for spec, _ in trial.runs) - 1 for task in ORDER]
    assert rounds[0] > rounds[-1] >= LEAST_ROUNDS
    assert max(rounds) <= MOST_ROUNDS


# ---- interrupted, and resumed ---------------------------------------------------------------------------------------
def interrupt_at(done: int) -> Callable[[Progress], None]:
    def interrupt(told: Progress) -> None:
        if told.done == done and told.rounds == 2:
            raise KeyboardInterrupt

    return interrupt


def test_an_interrupted_run_keeps_what_it_has_and_the_next_goes_on(memory: MeasuredLayers, made_up: MadeUp) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(memory, made_up, on_progress=interrupt_at(2))
    kept = dict(memory.load())
    assert len(kept) == 2
    made_up.runs.clear()
    result = run(memory, made_up)
    assert set(result.known) == set(kept)
    assert set(result.measured) == {task.key for task in TASKS} - set(kept)
    again = {spec for spec, _ in made_up.runs}
    assert not again & {task.spec for task in TASKS if task.key in kept}
    assert {key: memory.load()[key] for key in kept} == kept


def test_when_all_is_known_nothing_is_measured(memory: MeasuredLayers, made_up: MadeUp) -> None:
    run(memory, made_up)
    made_up.runs.clear()
    assert run(memory, made_up) == Tuned((), tuple(task.key for task in TASKS), ())
    assert made_up.runs == []


def test_other_conditions_are_measured_again_only_where_they_are_asked_for(
    memory: MeasuredLayers, made_up: MadeUp
) -> None:
    run(memory, made_up)
    assert missing(TASKS, memory) == missing(TASKS, memory, threads=1) == []
    assert missing(TASKS, memory, threads=2) == TASKS
    many = tuning_tasks(network(batch=3), LOCAL)
    assert missing(many, memory) == []
    assert missing(many, memory, threads=1) == many


# ---- what cannot be run ---------------------------------------------------------------------------------------------
def test_a_candidate_that_cannot_be_run_is_remembered_as_such(
    memory: MeasuredLayers, made_up: MadeUp, caplog: pytest.LogCaptureFixture
) -> None:
    made_up.unable = {0}
    run(memory, made_up)
    several = [task for task in TASKS if len(task.candidates) > 1]
    for task in several:
        unable = [(t.label, t.config) for t in memory.load()[task.key].timings if t.seconds is None]
        assert unable == [(task.candidates[0].label, task.candidates[0].config)]
    assert "there is no room" in caplog.text
    made = plan(network(), LOCAL, None, memory.measurements())
    chosen = {step.name: step.candidates[0] for step in made.steps if step.spec is not None}
    for task in several:
        first, best = task.candidates[0], chosen[task.name]
        assert (best.algorithm, best.config) != (first.label, first.config)


def test_a_layer_none_of_whose_candidates_can_be_run_is_left(memory: MeasuredLayers, made_up: MadeUp) -> None:
    made_up.unable = set(range(10))
    assert set(run(memory, made_up).left) == {task.key for task in TASKS}
    assert missing(TASKS, memory) == TASKS


# ---- real trials ----------------------------------------------------------------------------------------------------
FULL = Epilogue(bias=True, before=Activation("clip", (0.0, 6.0)), residual=True, after=Activation("relu"))
SPECS = [
    ConvSpec(2, 24, 9, 9, 40, 3, 3, pad=(1, 1, 1, 1), epilogue=FULL),
    ConvSpec(1, 24, 9, 9, 40, 1, 1, epilogue=Epilogue(bias=True)),
    ConvSpec(1, 24, 9, 9, 24, 3, 3, (2, 2), (1, 1, 1, 1), groups=24),
    ConvSpec(1, 24, 9, 9, 24, 3, 3, pad=(1, 1, 1, 1), groups=3),
    ConvSpec(3, 50, 1, 1, 10, 1, 1),
    ConvSpec(1, 8, 5, 5, 8, 3, 3, pad=(2, 2, 2, 2), upsample=(2, 2)),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.id)
def test_every_candidate_is_run_as_it_is(spec: ConvSpec) -> None:
    found = offers(spec, LOCAL, accuracy="fast")
    displaced = Displacement(LOCAL, 1 << 20).rows(1 << 18)
    assert displaced.shape == ((1 << 18) // 4 // ROW_ELEMS, ROW_ELEMS)
    trial = Trial(spec, found, LOCAL, NO_CACHE, displaced)
    for _ in range(2):
        seconds = trial.run(2)
        assert seconds.shape == (len(found),)
        assert (seconds > 0).all()


def _output(trial: Trial) -> np.ndarray:
    """The layer's result, where it lies in the arena."""
    (context,) = trial._program._contexts
    buffer = trial._program.plan.buffers["y"]
    return context._arena[buffer.offset_bytes :][: 4 * buffer.elems].view(np.float32).copy()


def test_candidates_compute_the_layer() -> None:
    """All of them the same numbers, in the memory that they share."""
    spec = SPECS[0]
    results = []
    for offer in offers(spec, LOCAL):
        trial = Trial(spec, [offer], LOCAL, NO_CACHE, Displacement(LOCAL, 0).rows(0))
        trial.run(1)
        results.append(_output(trial))
    assert np.isfinite(results[0]).all()
    assert results[0].std() > 0.1
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-3, atol=1e-3)


def test_the_displaced_bytes_are_bounded() -> None:
    most = Displacement(LOCAL, 1 << 40)
    size = most.rows(1 << 40).nbytes
    assert 0 < size <= min(LOCAL.l3_bytes or LOCAL.l2_bytes, MOST_DISPLACED_BYTES)
    assert len(Displacement(LOCAL, 0).rows(1 << 20)) == 0


def test_real_measurements_make_a_plan(memory: MeasuredLayers) -> None:
    options = PlanOptions(accuracy="strict")
    tasks = tuning_tasks(network(), LOCAL, options)
    result = tune(tasks, tasks, memory, LOCAL, NO_CACHE, threads=2, seconds=1e-9 + 60)
    assert len(result.measured) == len(tasks)
    made = plan(network(), LOCAL, options, memory.measurements())
    tuned = {task.name for task in tasks}
    for step in made.steps:
        if step.name in tuned:
            best = step.candidates[0]
            assert best.measured_seconds is not None
            measured = [c.measured_seconds for c in step.candidates if c.measured_seconds is not None]
            assert best.measured_seconds == min(measured)
            assert (best.algorithm.partition(":")[0], best.config) == (step.algorithm, step.config)


def test_a_trial_without_memory_is_an_error_that_tuning_understands() -> None:
    spec = ConvSpec(10**6, 64, 224, 224, 64, 1, 1)
    offer = tuning_tasks(network(), LOCAL)[0].candidates[0]
    with pytest.raises(Error):
        Trial(spec, [offer], LOCAL, NO_CACHE, np.zeros((0, ROW_ELEMS), np.float32))


def test_tasks_here_have_a_choice() -> None:
    """The tests above would be about nothing otherwise."""
    assert len(TASKS) >= 5
    assert sum(isinstance(task, TuningTask) and len(task.candidates) >= 3 for task in TASKS) >= 4
