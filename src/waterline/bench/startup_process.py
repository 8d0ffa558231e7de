"""One start of an engine, measured from inside. `waterline.bench.startup` runs this file by its path, never imports it.

Nothing of the package is imported at the top: the import of the engine is what is measured first, and the process of a
peer must not hold ours. The job is a JSON object as the only argument (`Job` in `startup`), the result one on stdout.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Job = dict[str, Any]
Phases = dict[str, float]


@contextlib.contextmanager
def timed(phases: Phases, name: str) -> Iterator[None]:
    """Seconds of the block, as `phases[name]`."""
    start = time.perf_counter()
    yield
    phases[name] = time.perf_counter() - start


def start_waterline(job: Job, phases: Phases) -> tuple[str, list[Any]]:
    """Version and outputs. The machine's calibration, which `compile` would do on first use, is a phase of its own."""
    with timed(phases, "import_s"):
        import waterline
        from waterline.api import environment
    with timed(phases, "calibrate_s"):
        environment.machine()
    with timed(phases, "compile_s"):
        net = waterline.compile(job["model"], num_threads=job["threads"])
    inputs = made_up(job).values()
    with timed(phases, "first_run_s"):
        results = net(*inputs)
    return waterline.__version__, list(results) if isinstance(results, tuple) else [results]


def start_onnxruntime(job: Job, phases: Phases) -> tuple[str, list[Any]]:
    """The settings are those of the peer in `waterline.bench.peers`, which cannot be imported here."""
    with timed(phases, "import_s"):
        onnxruntime = importlib.import_module("onnxruntime")
    with timed(phases, "compile_s"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job["threads"]
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    inputs = made_up(job)
    with timed(phases, "first_run_s"):
        results = session.run(None, inputs)
    return onnxruntime.__version__, results


ENGINES: dict[str, Callable[[Job, Phases], tuple[str, list[Any]]]] = {
    "waterline": start_waterline,
    "onnxruntime": start_onnxruntime,
}


def made_up(job: Job) -> dict[str, Any]:
    """Input -> normally distributed data, the same in every process. NumPy is there: each engine has imported it."""
    numpy = sys.modules["numpy"]
    random = numpy.random.default_rng(0)
    return {name: random.standard_normal(shape, numpy.float32) for name, shape in job["shapes"].items()}


def peak_memory_bytes() -> int:
    """The most that was resident so far.

    Linux's `ru_maxrss` survives exec: a process begins with the peak of the one that started it. `VmHWM` does not.
    """
    with contextlib.suppress(FileNotFoundError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def main() -> None:
    job: Job = json.loads(sys.argv[1])
    phases: Phases = {}
    version, outputs = ENGINES[job["engine"]](job, phases)
    phases["peak_memory_bytes"] = peak_memory_bytes()
    sys.modules["numpy"].savez(job["outputs"], *outputs)
    print(json.dumps({"version": version, "phases": phases}))


if __name__ == "__main__":
    main()
