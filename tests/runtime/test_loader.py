"""Kernels become addresses once: a process compiles each of them at most once, and a cache spares it that."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from programs import LOCAL, NO_CACHE, image, network, program

from waterline.algorithms import by_name
from waterline.codegen.cpu.kernel import Kernel
from waterline.graph.ops import Unary
from waterline.operators import lower
from waterline.planner import plan, views_of
from waterline.runtime import loader
from waterline.runtime.cache import ObjectCache
from waterline.runtime.loader import is_loaded, load_kernels
from waterline.spec import Activation, TensorView


def kernel(size: int) -> Kernel:
    """A small kernel that is another one for every size."""
    view = TensorView.dense((size,))
    return lower(Unary(Activation("relu")), [view], [view], LOCAL)[0].kernel


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is loaded yet; symbols of the kernels that are compiled meanwhile."""
    symbols: list[str] = []
    compile_object = loader.compile_object
    monkeypatch.setattr(loader, "_loaded", {})

    def counted(text: str, machine: object) -> bytes:
        symbols.append(text)
        return compile_object(text, machine)

    monkeypatch.setattr(loader, "compile_object", counted)
    return symbols


def test_each_kernel_is_compiled_once(compiled: list[str]):
    kernels = [kernel(37), kernel(38), kernel(37)]
    assert not is_loaded(kernels[0], LOCAL)
    first = load_kernels(kernels, LOCAL, NO_CACHE)
    assert len(compiled) == 2
    assert len(first) == 2
    assert len(set(first.values())) == 2
    assert load_kernels(kernels, LOCAL, NO_CACHE) == first
    assert len(compiled) == 2
    assert is_loaded(kernel(37), LOCAL)


def test_a_cache_spares_compilation(compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = ObjectCache(tmp_path / "kernels", "1")
    load_kernels([kernel(41), kernel(42)], LOCAL, cache)
    assert len(compiled) == 2
    monkeypatch.setattr(loader, "_loaded", {})  # as in another process
    load_kernels([kernel(41), kernel(42), kernel(43)], LOCAL, ObjectCache(tmp_path / "kernels", "1"))
    assert len(compiled) == 3
    monkeypatch.setattr(loader, "_loaded", {})
    load_kernels([kernel(41)], LOCAL, ObjectCache(tmp_path / "kernels", "2"))
    assert len(compiled) == 4, "objects of other versions do not count"


def test_progress_is_told_of_what_is_compiled(compiled: list[str]):
    load_kernels([kernel(51)], LOCAL, NO_CACHE)
    told: list[tuple[int, int]] = []
    load_kernels([kernel(51), kernel(52), kernel(53)], LOCAL, NO_CACHE, lambda *seen: told.append(seen))
    assert told == [(0, 2), (1, 2)]


def test_threads_compile_together_what_each_would(compiled: list[str]):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: load_kernels([kernel(61), kernel(62)], LOCAL, NO_CACHE), range(8)))
    assert len(compiled) == 2
    assert all(result == results[0] for result in results)


def test_another_batch_size_compiles_nothing(compiled: list[str]):
    """Of networks with every kind of layer and operator."""
    graph = network()
    program(graph)
    count = len(compiled)
    assert count > 5
    for batch in (2, 5, 16):
        larger = graph.with_shapes({"x": (batch, 3, 20, 20)})
        program(larger).run([image(larger)], 1)
    assert len(compiled) == count


@pytest.mark.parametrize("name", ["direct_gemm", "indirect", "im2col", "depthwise", "grouped", "winograd", "naive"])
def test_kernels_do_not_know_the_batch(name: str, compiled: list[str]):
    algorithm = by_name(name)
    graph = network()
    for step in plan(graph, LOCAL).steps:
        if step.spec is None or algorithm.refuse(step.spec, LOCAL) is not None:
            continue
        kernels = []
        for batch in (1, 4):
            made = plan(graph.with_shapes({"x": (batch, 3, 20, 20)}), LOCAL)
            same = next(s for s in made.steps if s.name == step.name)
            assert same.spec is not None
            config = algorithm.configs(step.spec, LOCAL)[0]
            calls = algorithm.implement(same.spec, config, views_of(same), LOCAL).calls
            kernels.append({call.kernel for call in calls})
        assert kernels[0] == kernels[1], step.name


def test_forks_while_another_thread_compiles(forked):
    """A child that is forked in the middle of a compilation can compile."""
    stop = threading.Event()

    def work() -> None:
        size = 1000
        while not stop.is_set():
            size += 1
            load_kernels([kernel(size)], LOCAL, NO_CACHE)

    def child() -> None:
        load_kernels([kernel(777)], LOCAL, NO_CACHE)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        outcomes = [forked(child) for _ in range(8)]
    finally:
        stop.set()
        worker.join()
    assert outcomes == [""] * 8
