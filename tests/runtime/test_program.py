"""Programs: the right values, the same bytes whoever runs them, memory that is respected and reused."""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from programs import LAYERS, LOCAL, NO_CACHE, bytes_of, image, network, program

from waterline.codegen.cpu.memory import ALIGNMENT_BYTES
from waterline.graph import Graph, Node
from waterline.graph.ops import Unary
from waterline.planner import plan
from waterline.reference import network_bound, run
from waterline.runtime import program as program_module
from waterline.runtime.program import Context, Program
from waterline.runtime.weights import PackedWeights
from waterline.spec import Activation


@pytest.fixture(scope="module")
def graph() -> Graph:
    return network()


@pytest.fixture(scope="module")
def made(graph: Graph) -> Program:
    return program(graph)


@pytest.fixture(scope="module")
def expected(graph: Graph, made: Program) -> bytes:
    return bytes_of(made.run([image(graph)], 1))


# ---- values ---------------------------------------------------------------------------------------------------------
def test_values(graph: Graph, made: Program):
    x = image(graph)
    expected, bounds = run(graph, {"x": x}), network_bound(graph, {"x": x})
    for name, result in zip(graph.outputs, made.run([x], 1), strict=True):
        assert result.dtype == np.float32
        assert np.abs(result - expected[name]).max() <= bounds[name]


def test_the_kinds_of_layers_that_these_tests_run(made: Program):
    """Fails if the network is no longer computed by the kernels that it was made for."""
    kinds = {step.name: step.algorithm for step in made.plan.steps}
    assert set(LAYERS) <= set(kinds)
    assert kinds["each"] == "depthwise"
    assert kinds["groups"] == "grouped"
    assert all(kinds[name] not in ("", "naive") for name in LAYERS)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_two_hundred_runs_give_the_same_bytes(graph: Graph, made: Program, threads: int):
    x = image(graph)
    expected = bytes_of(made.run([x], 1))
    assert {bytes_of(made.run([x], threads)) for _ in range(200)} == {expected}


def test_an_image_alone_and_in_a_batch(graph: Graph, made: Program):
    batch = image(network(batch=5))
    together = program(network(batch=5)).run([batch], 2)
    for i in range(5):
        alone = made.run([batch[i : i + 1].copy()], 1)
        assert all(a.tobytes() == t[i : i + 1].tobytes() for a, t in zip(alone, together, strict=True))


def test_inputs_are_left_alone_and_outputs_are_new(graph: Graph, made: Program):
    x = image(graph)
    before = x.copy()
    first = made.run([x], 2)
    kept = bytes_of(first)
    second = made.run([image(graph, seed=1)], 2)
    np.testing.assert_array_equal(x, before)
    assert bytes_of(first) == kept != bytes_of(second)


# ---- memory ---------------------------------------------------------------------------------------------------------
def test_what_was_in_the_arena_does_not_matter(graph: Graph, made: Program):
    """Nothing is read before it is written: not-a-number everywhere changes nothing."""
    x = image(graph)
    expected = bytes_of(made.run([x], 2))
    context = made._borrow()
    for fill in (0xFF, 0x7F, 0):
        context._arena[:] = fill
        if context._scratch is not None:
            context._scratch[:] = fill
        made._give_back(context)
        assert bytes_of(made.run([x], 2)) == expected
        assert made._borrow() is context
    made._give_back(context)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Arenas and scratch end at a page that cannot be touched (to 64 bytes: their alignment)."""
    kept = []
    protect = getattr(ctypes.CDLL(None), "mprotect", None)
    if protect is None:
        pytest.skip("this system cannot forbid pages")

    def memory(size: int) -> np.ndarray:
        page = mmap.PAGESIZE
        room = -(-size // page) * page
        block = mmap.mmap(-1, room + page)
        kept.append(block)
        base = ctypes.addressof(ctypes.c_char.from_buffer(block))
        assert protect(ctypes.c_void_p(base + room), ctypes.c_size_t(page), 0) == 0
        start = (room - size) // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        return np.frombuffer(block, np.uint8)[start : start + size]

    monkeypatch.setattr(program_module, "aligned_bytes", memory)
    yield
    kept.clear()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_arena_s_end_is_respected(graph: Graph, expected: bytes, guarded: None, threads: int, forked):
    made = program(graph)

    def child() -> None:
        assert bytes_of(made.run([image(graph)], threads)) == expected

    assert forked(child) == ""


def test_weights_and_tables_are_aligned(graph: Graph):
    weights = PackedWeights(graph.constants, LOCAL)
    made = program(graph, weights)
    for step in made.plan.steps:
        if step.spec is not None:
            for name, array in weights.of(step).items():
                assert array.ctypes.data % ALIGNMENT_BYTES == 0, (step.name, name)
    assert all(array.ctypes.data % ALIGNMENT_BYTES == 0 for array in made._keep)


def test_contexts_are_reused_and_never_shared(graph: Graph):
    made = program(graph)
    x = image(graph)
    for _ in range(5):
        made.run([x], 1)
    assert len(made._contexts) == 1
    inside: list[Context] = []
    barrier = threading.Barrier(3)

    def borrow() -> None:
        context = made._borrow()
        inside.append(context)
        barrier.wait(60)
        made._give_back(context)

    workers = [threading.Thread(target=borrow) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({id(context) for context in inside}) == 3
    assert len(made._contexts) == 3


def test_a_context_comes_back_after_a_mistake(graph: Graph, made: Program):
    made.run([image(graph)], 1)
    before = len(made._contexts)
    with pytest.raises(ValueError, match="zip"):
        made.run([], 1)
    assert len(made._contexts) == before


def test_the_number_of_threads_may_change_from_run_to_run(graph: Graph, made: Program):
    x = image(graph)
    results = {bytes_of(made.run([x], threads)) for threads in (1, 4, 2, 1, 3, 1)}
    assert len(results) == 1


# ---- concurrency ----------------------------------------------------------------------------------------------------
def test_four_callers_of_one_program(graph: Graph, made: Program):
    images = [image(graph, seed) for seed in range(4)]
    expected = [bytes_of(made.run([x], 1)) for x in images]

    def call(which: int) -> bool:
        return all(bytes_of(made.run([images[which]], threads)) == expected[which] for threads in (1, 2, 3) * 20)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(4)))
    assert len(made._contexts) <= 5


def test_several_programs_at_once():
    graphs = [network(batch, k) for batch, k in ((1, 24), (3, 16), (2, 40))]
    made = [program(graph) for graph in graphs]
    images = [image(graph) for graph in graphs]
    expected = [bytes_of(p.run([x], 1)) for p, x in zip(made, images, strict=True)]

    def call(which: int) -> bool:
        i = which % 3
        return all(bytes_of(made[i].run([images[i]], 2)) == expected[i] for _ in range(30))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(call, range(6)))


def test_a_forked_child_runs(graph: Graph, made: Program, forked):
    x = image(graph)
    expected = bytes_of(made.run([x], 3))

    def child() -> None:
        for threads in (2, 1, 3):
            assert bytes_of(made.run([x], threads)) == expected
        other = network(k=32)
        assert len(program(other).run([image(other)], 2)) == 2

    for _ in range(3):
        assert forked(child) == ""
    assert bytes_of(made.run([x], 3)) == expected


def test_forks_while_others_run(graph: Graph, made: Program, forked):
    """A fork in the middle of other threads' runs leaves a child that can run, and runs that go on."""
    x = image(graph)
    expected = bytes_of(made.run([x], 1))
    stop = threading.Event()
    wrong: list[int] = []

    def work() -> None:
        while not stop.is_set():
            if bytes_of(made.run([x], 2)) != expected:
                wrong.append(1)

    def child() -> None:
        assert bytes_of(made.run([x], 2)) == expected

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        outcomes = [forked(child) for _ in range(10)]
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert outcomes == [""] * 10
    assert not wrong


def test_nobody_spins_after_a_run(graph: Graph, made: Program):
    made.run([image(graph)], 4)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.02


# ---- times ----------------------------------------------------------------------------------------------------------
def test_times_of_calls(graph: Graph, made: Program):
    times = np.zeros((len(made.calls) + 1, 2), np.int64)
    before = time.monotonic_ns()
    made.run([image(graph)], 2, times)
    after = time.monotonic_ns()
    moments = times[:, 0] * 10**9 + times[:, 1]
    assert (np.diff(moments) >= 0).all()
    assert before <= moments[0] <= moments[-1] <= after
    again = times.copy()
    made.run([image(graph)], 2)
    np.testing.assert_array_equal(times, again, err_msg="a run that is not timed writes no times")


# ---- small networks -------------------------------------------------------------------------------------------------
def single(*shape: int) -> Graph:
    node = Node("relu", Unary(Activation("relu")), ("x",), ("y",))
    return Graph("single", ["x"], ["y"], [node], {"x": shape}).infer()


def test_networks_without_constants_or_arena():
    graph = single(2, 3)
    made = program(graph)
    assert made.arena_bytes == 0
    x = image(graph)
    np.testing.assert_array_equal(made.run([x], 2)[0], np.maximum(x, 0))


def test_networks_without_steps():
    graph = Graph("nothing", [], [], [], {}).infer()
    made = Program(plan(graph, LOCAL), PackedWeights({}, LOCAL), LOCAL, NO_CACHE)
    assert made.calls == []
    assert made.run([], 2) == []


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 4)])
def test_tensors_without_elements(shape: tuple[int, ...]):
    assert program(single(*shape)).run([np.zeros(shape, np.float32)], 2)[0].shape == shape
