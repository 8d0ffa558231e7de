"""What all tests share: a cache folder of their own, seeds that are printed, and the command that repeats a failure.

Tests may run in several processes at once (`make test`, `pytest -n 2`). Each has a cache folder of its own, and a test
marked `alone`, which looks at the clock, runs while no other does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

# Before anything imports NumPy or Waterline: one thread for the libraries, and a cache that is not the user's.
os.environ.setdefault("OMP_NUM_THREADS", "1")
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # the name of one of several processes
if not WORKER:
    os.environ["WATERLINE_TESTS_DIR"] = tempfile.mkdtemp(prefix="waterline-tests-")  # which the workers inherit
RUN_DIR = Path(os.environ["WATERLINE_TESTS_DIR"])
os.environ["WATERLINE_CACHE_DIR"] = str(RUN_DIR / f"cache{WORKER}")
# Triton's kernels run in its interpreter; what compiles them ahead of time is a child process.
os.environ["TRITON_INTERPRET"] = "1"
for _variable in ("WATERLINE_ISA", "WATERLINE_VERBOSE"):
    os.environ.pop(_variable, None)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Property tests try the same examples every time, but for `make fuzz`.
settings.register_profile(
    "waterline", derandomize="WATERLINE_FUZZ_SECONDS" not in os.environ, deadline=None, print_blob=True
)
settings.load_profile("waterline")

CHILD_SECONDS = 60  # a forked child that takes longer is stopped


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: looks at the clock; no other test runs meanwhile")


class WithoutTriton(pytest.Module):
    """Tests of GPU kernels where there is no Triton to interpret or to compile them."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("kernels for GPUs need Triton, which there is for Linux: the extra `gpu`", allow_module_level=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if module_path.name.startswith("test_gpu") and find_spec("triton") is None:
        return WithoutTriton.from_parent(parent, path=module_path)
    return None


def pytest_unconfigure(config: pytest.Config) -> None:
    if not WORKER:
        shutil.rmtree(RUN_DIR, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with turn(is_alone=item.get_closest_marker("alone") is not None) if WORKER else contextlib.nullcontext():
        return (yield)


@contextlib.contextmanager
def turn(is_alone: bool) -> Iterator[None]:
    """A test's place among those of other processes: beside them, or with none of them running.

    Who waits to be alone holds the gate, so that no other test begins meanwhile.
    """
    import fcntl

    with open(RUN_DIR / "gate", "w") as gate, open(RUN_DIR / "running", "w") as running:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(running, fcntl.LOCK_UN)  # not by closing: a child that lives on may have inherited it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    if report.failed:
        report.sections.append(("repeat with", f"python -m pytest '{item.nodeid}'"))
    return report


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Follows from the test's name, so that it is the same wherever and with whatever else the test runs."""
    value = zlib.crc32(request.node.nodeid.encode())
    print(f"seed {value}")
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


Forked = Callable[[Callable[[], object]], str]


@pytest.fixture(scope="session")
def forked() -> Forked:
    """Runs a function in a forked child, so that a crash of native code ends the child and not the tests.

    Returns "" if the function returned, else how the child ended.
    """
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    return run_forked


def run_forked(function: Callable[[], object]) -> str:
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking while other threads live: that is the point
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # pytest's faulthandler would print the parent's stack
            signal.alarm(CHILD_SECONDS)
            function()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = signal.Signals(-code).name
        return f"did not end in {CHILD_SECONDS} s" if name == "SIGALRM" else f"killed by {name}"
    return f"exit status {code}" if code else ""
