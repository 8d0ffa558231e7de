"""Native code that runs a network: threads walk one table of steps together, and sleep when there is none.

Structures (8-byte words unless said; offsets below):

* A *step* is (entry, args, items, chunk, chunks): one kernel call of the network.
* A *job* is a table of steps being run. The chunks of a step are dealt to as many *regions* as there are threads, in
  order; the word of a region holds step << 32 | chunks taken, and a thread takes a chunk by adding one. Each thread
  begins with its own region, so that it finds in its own cache what it wrote in the step before, and goes on in the
  others' when that is used up: a thread that is late or descheduled without a chunk in hand holds nobody up, and cores
  of unequal speed get unequal shares. Who finishes the last chunk of a step publishes the next step.
* A *team* is what sleeping threads wait on. `generation` counts jobs; `active` counts threads that may touch the job.

Three functions: `waterline_run(team, job)` runs a job to its end (called with the GIL released), `waterline_serve(team,
index)` is the life of a helper thread, `waterline_walk` is what both do with a job.
"""

from __future__ import annotations

import hashlib

from llvmlite import ir

from waterline.codegen.cpu.emitter import I32, I64, PTR, VOID, Emitter, Value, i64
from waterline.machine import Machine

STEP_ENTRY, STEP_ARGS, STEP_ITEMS, STEP_CHUNK, STEP_CHUNKS = (8 * i for i in range(5))
STEP_BYTES = 64

JOB_STEPS, JOB_COUNT, JOB_SCRATCH, JOB_SCRATCH_BYTES, JOB_HELPERS, JOB_TIMES = (8 * i for i in range(6))
JOB_DONE = 128  # a cache line of its own (two: neighbours are fetched in pairs), as each region has
JOB_REGIONS = 256
REGION_BYTES = 128

TEAM_JOB, TEAM_SLEEPERS, TEAM_BUSY = 0, 8, 16
TEAM_GENERATION = 128
TEAM_ACTIVE = 256
TEAM_MUTEX = 384  # pthread_mutex_t and pthread_cond_t: at most 64 bytes on every system we know; room for twice that
TEAM_CONDITION = 512
TEAM_BYTES = 640

# How often a thread looks for work before it yields (inside a job) or sleeps (between jobs): some ten microseconds.
SPINS_BEFORE_YIELD = 1000
SPINS_BEFORE_SLEEP = 1000

RUN, SERVE, WALK = "waterline_run", "waterline_serve", "waterline_walk"


def job_bytes(threads: int) -> int:
    """Of a job for so many threads."""
    return JOB_REGIONS + threads * REGION_BYTES


def emit_walker(machine: Machine) -> str:
    """LLVM IR of the three functions. The functions of pthreads and libc are found in the process."""
    module = ir.Module(name="walker")
    module.triple = machine.target()[0]
    walk = _emit_walk(module, machine)
    _emit_serve(module, machine, walk)
    _emit_run(module, machine, walk)
    return str(module)


class _Atomic:
    """64-bit words that threads share."""

    def __init__(self, e: Emitter) -> None:
        self.e = e

    def load(self, base: Value, offset: int, ordering: str = "acquire") -> Value:
        return self.e.builder.load_atomic(self.e.at(base, offset), ordering, 8, typ=I64)

    def store(self, value: Value, base: Value, offset: int, ordering: str = "release") -> None:
        # llvmlite's builder asks an opaque pointer for its pointee here; the instruction itself does not.
        b = self.e.builder
        b._insert(ir.instructions.StoreAtomicInstr(b.block, value, self.e.at(base, offset), ordering, 8))

    def add(self, base: Value, offset: int, value: int, ordering: str = "acq_rel") -> Value:
        """Returns the value before."""
        return self.e.builder.atomic_rmw("add", self.e.at(base, offset), i64(value), ordering)

    def exchange(self, base: Value, offset: int, value: int) -> Value:
        return self.e.builder.atomic_rmw("xchg", self.e.at(base, offset), i64(value), "acq_rel")


def _pause(e: Emitter) -> None:
    if e.machine.arch == "x86_64":
        e.builder.call(e.intrinsic("llvm.x86.sse2.pause", VOID, []), [])
    else:
        e.builder.call(e.intrinsic("llvm.aarch64.hint", VOID, [I32]), [ir.Constant(I32, 1)])


def _emit_walk(module: ir.Module, machine: Machine) -> ir.Function:
    """walk(job, thread): takes chunks until the job is finished."""
    e = Emitter(module, machine, WALK, [PTR, I64])
    job, thread = e.arguments
    b, atomic = e.builder, _Atomic(e)
    steps, count = e.load_pointer(job, JOB_STEPS), e.load_i64(job, JOB_COUNT)
    scratch = e.at(e.load_pointer(job, JOB_SCRATCH), e.mul(thread, e.load_i64(job, JOB_SCRATCH_BYTES)))
    times = e.load_pointer(job, JOB_TIMES)
    threads = b.add(e.load_i64(job, JOB_HELPERS), i64(1))
    entry = b.block
    look = b.append_basic_block("look")
    found = b.append_basic_block("found")
    scan = b.append_basic_block("scan")
    further = b.append_basic_block("further")
    wait = b.append_basic_block("wait")
    yielding = b.append_basic_block("yield")
    take = b.append_basic_block("take")
    check = b.append_basic_block("check")
    work = b.append_basic_block("work")
    last = b.append_basic_block("last")
    skip = b.append_basic_block("skip")
    publish = b.append_basic_block("publish")
    leave = b.append_basic_block("leave")

    def place(region: Value) -> Value:
        return e.at(job, b.add(e.mul(region, REGION_BYTES), i64(JOB_REGIONS)))

    def first_chunk(region: Value, chunks: Value) -> Value:
        return b.udiv(b.add(b.mul(region, chunks), e.sub(threads, 1)), threads)

    b.branch(look)
    b.position_at_end(look)
    spins = b.phi(I64, "spins")
    spins.add_incoming(i64(0), entry)
    current = b.lshr(atomic.load(place(thread), 0), i64(32))
    b.cbranch(b.icmp_unsigned(">=", current, count), leave, found)
    b.position_at_end(found)
    chunks = e.load_i64(e.at(steps, e.mul(current, STEP_BYTES)), STEP_CHUNKS)
    b.branch(scan)

    b.position_at_end(scan)
    others = b.phi(I64, "others")
    others.add_incoming(i64(0), found)
    region = b.add(thread, others)
    region = b.select(b.icmp_unsigned(">=", region, threads), b.sub(region, threads), region)
    word = atomic.load(place(region), 0)
    share = b.sub(first_chunk(b.add(region, i64(1)), chunks), first_chunk(region, chunks))
    is_free = b.icmp_unsigned("<", b.and_(word, i64(0xFFFFFFFF)), share)
    b.cbranch(b.and_(is_free, b.icmp_unsigned("==", b.lshr(word, i64(32)), current)), take, further)
    b.position_at_end(further)
    following_other = b.add(others, i64(1))
    others.add_incoming(following_other, further)
    b.cbranch(b.icmp_unsigned("<", following_other, threads), scan, wait)

    b.position_at_end(wait)
    _pause(e)
    more = b.add(spins, i64(1))
    spins.add_incoming(more, wait)
    b.cbranch(b.icmp_unsigned("<", more, i64(SPINS_BEFORE_YIELD)), look, yielding)
    b.position_at_end(yielding)
    b.call(e.intrinsic("sched_yield", I32, []), [])
    spins.add_incoming(i64(0), yielding)
    b.branch(look)

    b.position_at_end(take)
    word = atomic.add(place(region), 0, 1)  # perhaps of a later step: then what is taken belongs to that
    step, taken = b.lshr(word, i64(32)), b.and_(word, i64(0xFFFFFFFF))
    b.cbranch(b.icmp_unsigned(">=", step, count), leave, check)

    b.position_at_end(check)
    here = e.at(steps, e.mul(step, STEP_BYTES))
    chunks = e.load_i64(here, STEP_CHUNKS)
    chunk = b.add(first_chunk(region, chunks), taken)
    spins.add_incoming(i64(0), check)
    b.cbranch(b.icmp_unsigned("<", chunk, first_chunk(b.add(region, i64(1)), chunks)), work, look)

    b.position_at_end(work)
    size = e.load_i64(here, STEP_CHUNK)
    begin = b.mul(chunk, size)
    end = e.minimum(b.add(begin, size), e.load_i64(here, STEP_ITEMS))
    kernel = _Typed(e.load_pointer(here, STEP_ENTRY), ir.FunctionType(VOID, [PTR, I64, I64, PTR]))
    b.call(kernel, [e.load_pointer(here, STEP_ARGS), begin, end, scratch])
    finished = b.add(atomic.add(job, JOB_DONE, 1), i64(1))
    spins.add_incoming(i64(0), work)
    b.cbranch(b.icmp_unsigned("==", finished, chunks), last, look)

    b.position_at_end(last)
    atomic.store(i64(0), job, JOB_DONE, "monotonic")
    with b.if_then(b.icmp_unsigned("!=", b.ptrtoint(times, I64), i64(0))):
        clock = e.intrinsic("clock_gettime", I32, [I32, PTR])
        b.call(clock, [ir.Constant(I32, 1), e.at(times, e.mul(step, 16))])  # CLOCK_MONOTONIC: a timespec a step
    before = b.block
    b.branch(skip)
    b.position_at_end(skip)
    previous = b.phi(I64, "previous")
    previous.add_incoming(step, before)
    following = b.add(previous, i64(1))
    b.cbranch(b.icmp_unsigned(">=", following, count), publish, b.append_basic_block("empty"))
    empty = b.function.blocks[-1]
    b.position_at_end(empty)
    has_none = b.icmp_unsigned("==", e.load_i64(e.at(steps, e.mul(following, STEP_BYTES)), STEP_CHUNKS), i64(0))
    previous.add_incoming(following, empty)
    b.cbranch(has_none, skip, publish)
    b.position_at_end(publish)
    with e.loop(0, threads, name="region") as each:
        atomic.store(b.shl(following, i64(32)), place(each), 0)
    spins.add_incoming(i64(0), b.block)
    b.branch(look)

    b.position_at_end(leave)
    e.finish()
    return e.function


class _Typed:
    """A function pointer that knows its signature; opaque pointers do not."""

    def __init__(self, pointer: Value, kind: ir.FunctionType) -> None:
        self.pointer = pointer
        self.function_type = kind
        self.type = pointer.type

    def get_reference(self) -> str:
        return str(self.pointer.get_reference())


def _emit_serve(module: ir.Module, machine: Machine, walk: ir.Function) -> None:
    """serve(team, index): waits for jobs for ever; the calling thread is number index + 1 of the team."""
    e = Emitter(module, machine, SERVE, [PTR, I64])
    team, index = e.arguments
    b, atomic = e.builder, _Atomic(e)
    lock = e.intrinsic("pthread_mutex_lock", I32, [PTR])
    unlock = e.intrinsic("pthread_mutex_unlock", I32, [PTR])
    cond_wait = e.intrinsic("pthread_cond_wait", I32, [PTR, PTR])
    mutex, condition = e.at(team, TEAM_MUTEX), e.at(team, TEAM_CONDITION)
    entry = b.block
    idle = b.append_basic_block("idle")
    spin = b.append_basic_block("spin")
    sleep = b.append_basic_block("sleep")
    asleep = b.append_basic_block("asleep")
    waiting = b.append_basic_block("waiting")
    awake = b.append_basic_block("awake")
    found = b.append_basic_block("found")
    join = b.append_basic_block("join")
    part = b.append_basic_block("part")
    done = b.append_basic_block("done")
    b.branch(idle)

    b.position_at_end(idle)
    seen = b.phi(I64, "seen")
    seen.add_incoming(i64(0), entry)
    b.branch(spin)
    b.position_at_end(spin)
    spins = b.phi(I64, "spins")
    spins.add_incoming(i64(0), idle)
    generation = atomic.load(team, TEAM_GENERATION)
    more = b.add(spins, i64(1))
    pausing = b.append_basic_block("pausing")
    b.cbranch(b.icmp_unsigned("!=", generation, seen), found, pausing)
    b.position_at_end(pausing)
    _pause(e)
    spins.add_incoming(more, pausing)
    b.cbranch(b.icmp_unsigned("<", more, i64(SPINS_BEFORE_SLEEP)), spin, sleep)

    b.position_at_end(sleep)
    b.call(lock, [mutex])
    atomic.add(team, TEAM_SLEEPERS, 1, "seq_cst")
    b.branch(asleep)
    b.position_at_end(asleep)
    current = atomic.load(team, TEAM_GENERATION, "seq_cst")
    b.cbranch(b.icmp_unsigned("==", current, seen), waiting, awake)
    b.position_at_end(waiting)
    b.call(cond_wait, [condition, mutex])
    b.branch(asleep)
    b.position_at_end(awake)
    atomic.add(team, TEAM_SLEEPERS, -1, "seq_cst")
    b.call(unlock, [mutex])
    b.branch(found)

    b.position_at_end(found)
    now = b.phi(I64, "now")
    now.add_incoming(generation, spin)
    now.add_incoming(current, awake)
    atomic.add(team, TEAM_ACTIVE, 1, "seq_cst")
    job = b.inttoptr(atomic.load(team, TEAM_JOB, "seq_cst"), PTR)
    b.cbranch(b.icmp_unsigned("!=", b.ptrtoint(job, I64), i64(0)), join, done)
    b.position_at_end(join)
    b.cbranch(b.icmp_unsigned("<", index, e.load_i64(job, JOB_HELPERS)), part, done)
    b.position_at_end(part)
    b.call(walk, [job, b.add(index, i64(1))])
    b.branch(done)
    b.position_at_end(done)
    atomic.add(team, TEAM_ACTIVE, -1, "seq_cst")
    seen.add_incoming(now, done)
    b.branch(idle)


def _emit_run(module: ir.Module, machine: Machine, walk: ir.Function) -> None:
    """run(team, job): the calling thread works too. If the team is taken or no helpers are wanted it works alone."""
    e = Emitter(module, machine, RUN, [PTR, PTR])
    team, job = e.arguments
    b, atomic = e.builder, _Atomic(e)
    lock = e.intrinsic("pthread_mutex_lock", I32, [PTR])
    unlock = e.intrinsic("pthread_mutex_unlock", I32, [PTR])
    broadcast = e.intrinsic("pthread_cond_broadcast", I32, [PTR])
    alone = b.append_basic_block("alone")
    ask = b.append_basic_block("ask")
    lead = b.append_basic_block("lead")
    gather = b.append_basic_block("gather")
    leave = b.append_basic_block("leave")
    b.cbranch(b.icmp_unsigned("==", e.load_i64(job, JOB_HELPERS), i64(0)), alone, ask)
    b.position_at_end(ask)
    taken = atomic.exchange(team, TEAM_BUSY, 1)
    b.cbranch(b.icmp_unsigned("!=", taken, i64(0)), alone, lead)

    b.position_at_end(alone)
    b.call(walk, [job, i64(0)])
    b.branch(leave)

    b.position_at_end(lead)
    atomic.store(b.ptrtoint(job, I64), team, TEAM_JOB, "seq_cst")
    atomic.add(team, TEAM_GENERATION, 1, "seq_cst")
    sleepers = atomic.load(team, TEAM_SLEEPERS, "seq_cst")
    with b.if_then(b.icmp_unsigned("!=", sleepers, i64(0))):
        b.call(lock, [e.at(team, TEAM_MUTEX)])
        b.call(broadcast, [e.at(team, TEAM_CONDITION)])
        b.call(unlock, [e.at(team, TEAM_MUTEX)])
    b.call(walk, [job, i64(0)])
    atomic.store(i64(0), team, TEAM_JOB, "seq_cst")
    b.branch(gather)
    b.position_at_end(gather)
    _pause(e)
    active = atomic.load(team, TEAM_ACTIVE, "seq_cst")
    freed = b.append_basic_block("freed")
    b.cbranch(b.icmp_unsigned("==", active, i64(0)), freed, gather)
    b.position_at_end(freed)
    atomic.store(i64(0), team, TEAM_BUSY)
    b.branch(leave)
    b.position_at_end(leave)
    e.finish()


def key(text: str, machine: Machine) -> str:
    """Identifies the object code of `emit_walker`'s text."""
    return hashlib.blake2b(f"{text}|{machine.target()}".encode(), digest_size=16).hexdigest()
