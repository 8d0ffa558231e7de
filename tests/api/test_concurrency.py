"""One network in several threads, several networks at once, forked processes; and results that depend on none of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import waterline
from waterline import CompiledNetwork

from .networks import graph, image, module

Forked = Callable[[Callable[[], object]], str]


@pytest.fixture(scope="module")
def net() -> CompiledNetwork:
    return waterline.compile(module(), torch.from_numpy(image()), num_threads=2)


def run(net: CompiledNetwork, x: np.ndarray) -> np.ndarray:
    return np.asarray(net(torch.from_numpy(x)))


def test_bitwise_the_same_for_any_number_of_threads(net: CompiledNetwork) -> None:
    x = image(3, 3, 40, 36)
    results = [
        run(waterline.compile(module(), torch.from_numpy(x), num_threads=threads), x) for threads in (1, 2, 3, 5)
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_bitwise_the_same_alone_and_in_a_batch(net: CompiledNetwork) -> None:
    batch = image(5, 3, 12, 10)
    together = run(net, batch)
    for i in range(len(batch)):
        np.testing.assert_array_equal(run(net, batch[i : i + 1])[0], together[i])
    np.testing.assert_array_equal(run(net, batch[::-1].copy()), together[::-1])


def test_bitwise_the_same_for_any_batch_that_was_compiled_for() -> None:
    batch = image(4, 3, 12, 10)
    alone = waterline.compile(module(), torch.from_numpy(batch[:1]))
    together = waterline.compile(module(), torch.from_numpy(batch))
    np.testing.assert_array_equal(run(alone, batch), run(together, batch))


def test_bitwise_the_same_from_call_to_call(net: CompiledNetwork) -> None:
    first = run(net, image())
    for _ in range(20):
        np.testing.assert_array_equal(run(net, image()), first)


def test_another_batch_compiles_nothing(net: CompiledNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    run(net, image())
    run(net, image(2, 3, 12, 10))  # blocks of layers are chosen for one image or for many

    def compile_object(*arguments: object) -> bytes:
        raise AssertionError("a kernel was compiled")

    monkeypatch.setattr("waterline.runtime.loader.compile_object", compile_object)
    for batch in (2, 3, 7, 0):
        assert run(net, image(batch, 3, 12, 10)).shape == (batch, 5)


def test_one_network_in_several_threads(net: CompiledNetwork) -> None:
    images = [image(batch, 3, 12, 10, seed=batch) for batch in (1, 2, 3, 4)]
    expected = [run(net, x) for x in images]
    barrier = threading.Barrier(4)

    def work(turn: int) -> None:
        barrier.wait()
        for i in range(40):
            which = (turn + i) % len(images)
            np.testing.assert_array_equal(run(net, images[which]), expected[which])

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, turn) for turn in range(4)]:
            future.result(timeout=120)


def test_several_networks_in_several_threads() -> None:
    nets = [waterline.compile(graph(k=k), num_threads=threads) for k, threads in [(8, 1), (16, 2), (24, 3)]]
    expected = [net(image()) for net in nets]

    def work(i: int) -> None:
        for _ in range(40):
            np.testing.assert_array_equal(nets[i](image()), expected[i])

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(work, i) for i in range(3)]:
            future.result(timeout=120)


def test_compiling_in_several_threads() -> None:
    with ThreadPoolExecutor(3) as pool:
        nets = list(pool.map(lambda k: waterline.compile(graph(k=k)), [5, 5, 6]))
    np.testing.assert_array_equal(nets[0](image()), nets[1](image()))
    assert nets[2](image()).shape[1] == 6


def test_conv2d_in_several_threads() -> None:
    x, weights = image(1, 3, 8, 8), [image(4, 3, 3, 3, seed=seed) for seed in range(3)]
    expected = [waterline.conv2d(x, weight) for weight in weights]

    def work(i: int) -> None:
        for _ in range(20):
            np.testing.assert_array_equal(waterline.conv2d(x, weights[i]), expected[i])

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(work, i) for i in range(3)]:
            future.result(timeout=120)


@pytest.mark.parametrize("threads", [1, 2])
def test_after_fork(forked: Forked, threads: int) -> None:
    """Threads do not survive a fork: a network that has run with two must still run in the child."""
    net = waterline.compile(graph(), num_threads=threads)
    expected = net(image())

    def child() -> None:
        for _ in range(3):
            np.testing.assert_array_equal(net(image()), expected)
        other = waterline.compile(graph(k=7), num_threads=threads)
        assert other(image()).shape[1] == 7

    assert forked(child) == ""
    np.testing.assert_array_equal(net(image()), expected)  # and in the parent


def test_fork_while_another_thread_runs(forked: Forked) -> None:
    net = waterline.compile(graph((1, 3, 64, 64)), num_threads=2)
    x = image(1, 3, 64, 64)
    expected = net(x)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            net(x)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        ends = [forked(lambda: np.testing.assert_array_equal(net(x), expected)) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert ends == [""] * 5
