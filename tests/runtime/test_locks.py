"""A child that is forked while another thread holds a lock finds it open."""

import threading

from programs import image, network, program

from waterline.runtime.locks import RenewedLock


def test_a_lock_excludes():
    lock = RenewedLock()
    order: list[str] = []

    def other() -> None:
        with lock:
            order.append("other")

    with lock:
        worker = threading.Thread(target=other)
        worker.start()
        worker.join(0.05)
        order.append("first")
    worker.join(10)
    assert order == ["first", "other"]


def test_a_lock_is_let_go_after_a_mistake():
    lock = RenewedLock()
    for _ in range(2):
        try:
            with lock:
                raise ValueError
        except ValueError:
            pass


def test_a_child_finds_it_open(forked):
    lock, taken, done = RenewedLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            done.wait(60)

    worker = threading.Thread(target=hold)
    worker.start()
    taken.wait(10)

    def child() -> None:
        with lock:
            pass

    outcome = forked(child)
    done.set()
    worker.join(10)
    assert outcome == ""
    with lock:
        pass


def test_a_child_can_use_a_network_that_another_thread_is_compiling_for(forked):
    """As a call with a new batch size does it: the lock is held, the old batch sizes still run in the child."""
    graph = network()
    made = program(graph)
    x = image(graph)
    expected = [a.tobytes() for a in made.run([x], 2)]
    stop = threading.Event()

    def work() -> None:
        batch = 1
        while not stop.is_set():
            batch = batch % 50 + 1
            program(graph.with_shapes({"x": (batch, 3, 20, 20)}))

    def child() -> None:
        assert [a.tobytes() for a in made.run([x], 2)] == expected
        program(graph.with_shapes({"x": (3, 3, 20, 20)}))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        outcomes = [forked(child) for _ in range(5)]
    finally:
        stop.set()
        worker.join()
    assert outcomes == [""] * 5
