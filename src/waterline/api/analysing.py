"""`analyse`: how far a network is from the limit of a machine, before anything has run."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from waterline.analysis import Analysis, of_plan
from waterline.api import environment
from waterline.api.compiling import make_engine, read_source
from waterline.api.engine import CpuEngine, Engine
from waterline.api.options import CUDA, parse_device, parse_dtype, parse_options
from waterline.errors import InvalidArgument
from waterline.machine import CATALOGUE, Machine
from waterline.machine.gpu import GPU_CATALOGUE, Gpu
from waterline.planner import plan


def analyse(
    model: Any,
    example_inputs: Any = None,
    *,
    machine: Machine | Gpu | str | None = None,
    num_threads: int | None = None,
    dtype: Any = "float32",
    options: Mapping[str, Any] | None = None,
) -> Analysis:
    """Analyse a network from its plan alone: nothing is compiled and nothing runs, so the machine need not be here.

    `CompiledNetwork.analyse(x)` is the same of measured times.

    Args:
        model, example_inputs, dtype: as for `compile`.
        machine: None, this one; a `Machine` or a `Gpu`; or the name of one in `waterline.machine.CATALOGUE` or
            `waterline.machine.gpu.GPU_CATALOGUE`, or a part of it that fits no other; "cuda": the GPU of this machine.
            Plans for a GPU need the extra `gpu`.
        num_threads: how many of its cores; None: all.
        options: as for `compile`. `tune` takes what was measured on this machine so far, and measures nothing; it goes
            with no other machine.

    Raises:
        InvalidModel, UnsupportedOperator: the model cannot be read, or uses what is not computed.
        InvalidArgument: a wrong argument, machine or option. Refused: no allowed algorithm serves a layer.
    """
    is_whole = isinstance(num_threads, int) and not isinstance(num_threads, bool)
    if num_threads is not None and not is_whole:
        raise InvalidArgument(f"num_threads is {num_threads!r}", "pass a whole number, or None for all cores")
    engine = _engine(machine, dtype, num_threads)
    checked = parse_options(options, engine.algorithm_names)
    is_here = machine is None or (isinstance(machine, str) and machine.partition(":")[0] == CUDA)
    if checked.is_tuned and not is_here:
        raise InvalidArgument("tune was given for another machine", "what was measured here says nothing of it")
    measured = engine.measured_layers().measurements() if checked.is_tuned else None
    graph = read_source(*engine.readable(model, example_inputs)).graph
    graph.dtype = engine.dtype
    return of_plan(plan(graph, engine.target, checked.plan, measured), engine.rates, num_threads)


def _engine(machine: Machine | Gpu | str | None, dtype: Any, num_threads: int | None) -> Engine:
    """The engine of a machine, which need not be here."""
    if isinstance(machine, str) and machine.partition(":")[0] == CUDA:
        return make_engine(machine, dtype, num_threads)
    found = find_machine(machine)
    if isinstance(found, Machine):
        parse_dtype(dtype)
        return CpuEngine(found, found.cores if num_threads is None else num_threads)
    precision = parse_dtype(dtype, parse_device(CUDA))
    if num_threads is not None:
        raise InvalidArgument(f"num_threads is {num_threads!r} for {found.name}", "threads are a CPU's: leave it out")
    from waterline.api.gpu import engine_for

    return engine_for(found, precision)


def find_machine(machine: Machine | Gpu | str | None) -> Machine | Gpu:
    """A machine, by its name or a part of the name; None is this one.

    Raises:
        InvalidArgument: no machine of the catalogue has such a name, or several have; the hint lists them.
    """
    if machine is None:
        return environment.machine()
    if isinstance(machine, Machine | Gpu):
        return machine
    if not isinstance(machine, str):
        raise InvalidArgument(f"machine is {machine!r}", "pass a Machine, a name of the catalogue, or None")
    wanted = machine.casefold().strip()
    known: list[Machine | Gpu] = [*CATALOGUE, *GPU_CATALOGUE]
    names = {each.name.casefold(): each for each in known}
    if wanted in names:
        return names[wanted]
    found = [each for name, each in names.items() if wanted in name] or [
        each for name, each in names.items() if all(word in name for word in wanted.split())
    ]
    if len(found) == 1 and wanted:
        return found[0]
    if found and wanted:
        raise InvalidArgument(f"machine {machine!r} may be several", f"they are {_listed(found)}")
    close = difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {names[close[0]].name!r}?" if close else f"known are {_listed(names.values())}"
    raise InvalidArgument(f"there is no machine {machine!r}", hint)


def _listed(machines: Any) -> str:
    return "; ".join(repr(each.name) for each in machines)
