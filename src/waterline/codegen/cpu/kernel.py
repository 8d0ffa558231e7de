"""What a kernel is: a recipe that can be emitted, and a call of it in a network.

Every kernel has the entry `void symbol(ptr args, i64 begin, i64 end, ptr scratch)`: it computes the work items
`begin <= item < end`. `args` is an array of 8-byte words, in the order of `Call.args`: addresses of tensors, packed
weights, tables and workspaces, and whole numbers such as the batch. `scratch` is memory of the calling thread.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from llvmlite import ir

from waterline.codegen.cpu.emitter import I64, PTR, Emitter, Value
from waterline.machine import Machine

# Part of every kernel's key: to be raised when a change of the emitters changes what they emit.
EMISSION_VERSION = 17


@dataclass(frozen=True)
class Kernel:
    """A recipe: all that the emitted code depends on beside the machine, and nothing else (no batch, no address).

    Subclasses add fields (numbers, strings, tuples, frozen dataclasses) and implement `build`. Equal recipes give equal
    bytes, which is what makes the object cache sound.
    """

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        """Emits the body. `emitter` stands at the start of the entry function and is finished by the caller."""
        raise NotImplementedError

    def emit(self, symbol: str, machine: Machine) -> str:
        """The LLVM IR of the kernel under the name `symbol`."""
        module = ir.Module(name=symbol)
        module.triple = machine.target()[0]
        emitter = Emitter(module, machine, symbol, [PTR, I64, I64, PTR])
        self.build(emitter, *emitter.arguments)
        emitter.finish()
        return str(module)

    def key(self, machine: Machine) -> str:
        """Identifies the object code: the recipe, the target's features and the emitters' version."""
        text = f"{EMISSION_VERSION}|{self!r}|{machine.target()}|{machine.vector_bytes}"
        return f"{type(self).__name__.lower()}_{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


@dataclass(frozen=True)
class Input:
    """The address of the step's i-th input tensor (constants of the graph included)."""

    index: int


@dataclass(frozen=True)
class Output:
    index: int = 0


@dataclass(frozen=True)
class Packed:
    """The address of an array that the algorithm makes from weights or geometry when the network is loaded."""

    name: str


@dataclass(frozen=True)
class Workspace:
    """The address of memory that lives as long as the step."""

    name: str


@dataclass(frozen=True)
class Number:
    value: int


@dataclass(frozen=True)
class Clock:
    """The address of this call's counters, one a phase of the kernel: what `clock.PhaseClock` adds ticks to.

    For kernels that go through several phases block by block, whose times no call of its own shows. A call has one at
    most.
    """

    phases: tuple[str, ...]


Arg = Input | Output | Packed | Workspace | Number | Clock


@dataclass(frozen=True)
class Call:
    """One kernel in a step: `items` work items, handed to threads `chunk` at a time; no item reads another's result."""

    kernel: Kernel
    args: tuple[Arg, ...]
    items: int
    chunk: int = 1
    scratch_bytes: int = 0
    phase: str = ""
