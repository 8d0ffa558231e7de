"""Threads that walk a table of steps: every item once, one step after the other, and silence when there is no job."""

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from llvmlite import ir

from waterline.codegen.cpu import walker
from waterline.codegen.cpu.emitter import I64, PTR, Emitter
from waterline.codegen.cpu.jit import Library, compile_assembly, compile_object
from waterline.codegen.cpu.memory import address, aligned_bytes
from waterline.machine import CATALOGUE, Machine, detect
from waterline.runtime.cache import ObjectCache
from waterline.runtime.team import Team

LOCAL = detect()
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
SCRATCH_BYTES = 128


@pytest.fixture(scope="module")
def team() -> Team:
    """One team for the module, of four threads in all: its threads live as long as the process."""
    made = Team(LOCAL, ObjectCache(None, "test"))
    made.grow(3)
    return made


# ---- kernels --------------------------------------------------------------------------------------------------------
def native(name: str, body: Callable[[Emitter], None]) -> tuple[Library, int]:
    module = ir.Module(name=name)
    e = Emitter(module, LOCAL, name, [PTR, I64, I64, PTR])
    body(e)
    e.finish()
    library = Library([compile_object(str(module), LOCAL)], [name])
    return library, library[name]


@pytest.fixture(scope="module")
def chain() -> tuple[Library, int]:
    """args = (source, target, number): target[item] += 1 + sum of source[0 .. number)."""

    def body(e: Emitter) -> None:
        args, begin, end, _ = e.arguments
        source, target, number = e.load_pointer(args), e.load_pointer(args, 8), e.load_i64(args, 16)
        with e.loop(begin, end) as item:
            with e.carried_loop(0, number, 1, [e.index(1)]) as loop:
                loop.carry([e.add(loop.values[0], e.load(source, I64, e.mul(loop.index, 8), 8))])
            at = e.mul(item, 8)
            e.store(e.add(e.load(target, I64, at, 8), loop.results[0]), target, at, 8)

    return native("chain", body)


@pytest.fixture(scope="module")
def alone_in_scratch() -> tuple[Library, int]:
    """args = (target,): writes the item's number to the scratch, dawdles, and adds up how often it had changed."""

    def body(e: Emitter) -> None:
        args, begin, end, scratch = e.arguments
        target = e.load_pointer(args)
        with e.loop(begin, end) as item:
            e.store(item, scratch, SCRATCH_BYTES - 8, 8)
            with e.carried_loop(0, 2000, 1, [e.index(0)]) as loop:
                e.forget_loads()
                seen = e.load_i64(scratch, SCRATCH_BYTES - 8)
                wrong = e.builder.zext(e.builder.icmp_signed("!=", seen, item), I64)
                loop.carry([e.add(loop.values[0], wrong)])
            e.store(loop.results[0], target, e.mul(item, 8), 8)

    return native("alone_in_scratch", body)


# ---- jobs -----------------------------------------------------------------------------------------------------------
class Job:
    """A table of (entry, args, items, chunk), laid out as the runtime does."""

    def __init__(self, steps: Sequence[tuple[int, Sequence[int], int, int]], threads: int) -> None:
        self.count, self.threads = len(steps), threads
        self.args = [np.array([*words, 0], np.int64) for _, words, _, _ in steps]
        self.table = aligned_bytes(max(len(steps), 1) * walker.STEP_BYTES).view(np.int64).reshape(-1, 8)
        for row, args, (entry, _, items, chunk) in zip(self.table, self.args, steps, strict=False):
            row[:5] = entry, address(args), items, chunk, -(-items // chunk)
        self.scratch = aligned_bytes(SCRATCH_BYTES * threads)
        self.times = np.zeros((len(steps), 2), np.int64)
        self.words = aligned_bytes(walker.job_bytes(threads)).view(np.int64)
        self.regions = self.words[walker.JOB_REGIONS // 8 :: walker.REGION_BYTES // 8]
        values = {
            walker.JOB_STEPS: address(self.table),
            walker.JOB_COUNT: len(steps),
            walker.JOB_SCRATCH: address(self.scratch),
            walker.JOB_SCRATCH_BYTES: SCRATCH_BYTES,
            walker.JOB_HELPERS: threads - 1,
        }
        for offset, value in values.items():
            self.words[offset // 8] = value
        self.first = next((i for i, row in enumerate(self.table[: len(steps)]) if row[4]), len(steps))

    def run(self, team: Team, *, timed: bool = False) -> None:
        self.words[walker.JOB_TIMES // 8] = self.times.ctypes.data if timed else 0
        self.regions[:] = self.first << 32
        team.run(address(self.words))
        assert self.words[walker.JOB_DONE // 8] == 0
        assert (self.regions >> 32 == self.count).all()


class Chain:
    """Steps that each read all that the step before has written; wrong order or a lost item changes the end."""

    def __init__(self, entry: int, shapes: Sequence[tuple[int, int]], threads: int) -> None:
        self.shapes = shapes
        self.data = [np.zeros(max(items, 1), np.int64) for items, _ in ((1, 1), *shapes)]
        steps = []
        read = 1
        for number, (items, chunk) in enumerate(shapes, 1):
            source = max(i for i in range(number) if i == 0 or shapes[i - 1][0])  # the last step that had items
            read = max(shapes[source - 1][0], 1) if source else 1
            words = (self.data[source].ctypes.data, self.data[number].ctypes.data, read)
            steps.append((entry, words, items, chunk))
        self.job = Job(steps, threads)

    def check(self, team: Team, *, timed: bool = False) -> None:
        for array in self.data:
            array[:] = 0
        self.job.run(team, timed=timed)
        value, width = 0, 1
        for (items, _), array in zip(self.shapes, self.data[1:], strict=True):
            if items:
                value = value * width + 1
                width = items
                assert (array == np.array(value % 2**64, np.uint64).astype(np.int64)).all()
            else:
                assert (array == 0).all()


def random_shapes(rng: np.random.Generator) -> list[tuple[int, int]]:
    """Steps of 0 to 40 items in chunks of 1 to 9."""
    return [
        (int(rng.integers(0, 41)) * int(rng.random() > 0.2), int(rng.integers(1, 10)))
        for _ in range(rng.integers(1, 12))
    ]


# ---- what is promised -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_item_once_and_steps_in_order(threads: int, team: Team, chain, rng):
    for _ in range(100):
        one = Chain(chain[1], random_shapes(rng), threads)
        for _ in range(3):
            one.check(team)


@pytest.mark.parametrize(
    "shapes",
    [[], [(0, 1)], [(0, 1), (0, 1)], [(0, 1), (5, 2)], [(5, 2), (0, 1)], [(7, 1), (0, 1), (0, 3), (9, 9)]],
    ids=str,
)
def test_steps_without_items(shapes, team: Team, chain):
    for threads in (1, 3):
        Chain(chain[1], shapes, threads).check(team)


def test_a_long_table(team: Team, chain):
    Chain(chain[1], [(3, 1)] * 2000, 3).check(team)


@pytest.mark.parametrize("callers", [2, 4])
def test_callers_at_the_same_time(callers: int, team: Team, chain, rng):
    """Who finds the team taken works alone; nobody gets another one's steps."""
    chains = [Chain(chain[1], random_shapes(rng), 3) for _ in range(callers)]
    failures: list[BaseException] = []

    def call(one: Chain) -> None:
        try:
            for _ in range(200):
                one.check(team)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=call, args=(one,)) for one in chains]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_threads_have_scratch_of_their_own(team: Team, alone_in_scratch):
    target = np.full(300, -1, np.int64)
    for threads in (2, 4):
        target[:] = -1
        Job([(alone_in_scratch[1], (target.ctypes.data,), len(target), 1)], threads).run(team)
        assert (target == 0).all()


def test_no_more_threads_than_asked_for(team: Team):
    """Of a team of four a job for two gets two; and the pieces are the chunks."""
    seen: list[tuple[int, int, int]] = []

    @KERNEL
    def kernel(args: int, begin: int, end: int, scratch: int) -> None:
        seen.append((threading.get_ident(), begin, end))
        time.sleep(0.001)

    entry = ctypes.cast(kernel, ctypes.c_void_p).value
    assert entry is not None
    for threads in (1, 2):
        seen.clear()
        Job([(entry, (), 50, 4)], threads).run(team)
        assert len({thread for thread, _, _ in seen}) == threads
        assert sorted((begin, end) for _, begin, end in seen) == [(i, min(i + 4, 50)) for i in range(0, 50, 4)]
        if threads == 1:
            assert {thread for thread, _, _ in seen} == {threading.get_ident()}


def test_a_team_without_helpers_works_alone(chain):
    Chain(chain[1], [(10, 1), (3, 1)], 3).check(Team(LOCAL, ObjectCache(None, "test")))


def test_times_rise_from_step_to_step(team: Team, chain):
    one = Chain(chain[1], [(40, 3), (0, 1), (40, 40), (1, 1)], 2)
    start = time.monotonic_ns()
    one.check(team, timed=True)
    end = time.monotonic_ns()
    moments = one.job.times[:, 0] * 10**9 + one.job.times[:, 1]
    assert moments[1] == 0, "a step without items has no moment"
    assert start <= moments[0] <= moments[2] <= moments[3] <= end


def test_nobody_spins_when_there_is_no_job(team: Team, chain):
    Chain(chain[1], [(40, 1)] * 20, 4).check(team)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.02


def test_a_team_sleeps_and_wakes_again(team: Team, chain):
    one = Chain(chain[1], [(40, 1)] * 5, 4)
    for pause in (0, 0.001, 0.0001, 0.02, 0) * 4:
        time.sleep(pause)
        one.check(team)


# ---- emission -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
def test_the_walker_is_the_same_on_every_machine(machine: Machine):
    text = walker.emit_walker(machine)
    assert text == walker.emit_walker(machine)
    assembly = compile_assembly(text, machine)
    for name in (walker.RUN, walker.SERVE, walker.WALK):
        assert f"{name}:" in assembly
    assert ("pause" in assembly) if machine.arch == "x86_64" else ("yield" in assembly)
    assert walker.key(text, machine) == walker.key(text, machine)


def test_the_words_do_not_overlap():
    step = [walker.STEP_ENTRY, walker.STEP_ARGS, walker.STEP_ITEMS, walker.STEP_CHUNK, walker.STEP_CHUNKS]
    assert len(set(step)) == 5
    assert max(step) + 8 <= walker.STEP_BYTES
    # What threads write is two cache lines away from everything else.
    hot = (walker.JOB_TIMES, walker.JOB_DONE, walker.JOB_REGIONS, walker.job_bytes(1), walker.job_bytes(2))
    assert all(after - before >= 88 for before, after in itertools.pairwise(hot))
    assert walker.TEAM_MUTEX + 128 <= walker.TEAM_CONDITION
    assert walker.TEAM_CONDITION + 128 <= walker.TEAM_BYTES
