"""The engines that Waterline is compared with, each as an optional dependency: name -> module with `prepare(task)`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Collection
from typing import Any

from waterline.bench.engine import Engine, Meter, Task
from waterline.errors import InvalidArgument

# name -> (module, the package that it needs, how to get it)
PEERS = {
    "onnxruntime": ("onnxruntime_peer", "onnxruntime", "pip install 'waterline[peers]'"),
    "openvino": ("openvino_peer", "openvino", "pip install 'waterline[peers]'"),
    "ncnn": ("ncnn_peer", "ncnn", "pip install 'waterline[peers]'"),
    "torch": ("torch_peer", "torch", "pip install 'waterline[torch]'"),
    "inductor": ("inductor_peer", "torch", "pip install 'waterline[torch]'"),
}


def check_name(name: str) -> str:
    """The name, if there is such a peer.

    Raises:
        InvalidArgument: there is none; the hint names the closest.
    """
    if name not in PEERS:
        close = difflib.get_close_matches(name, PEERS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"peers are {', '.join(PEERS)}"
        raise InvalidArgument(f"there is no peer {name!r}", hint)
    return name


def prepare(name: str, task: Task) -> Engine:
    """Load and warm a peer, with float32 arithmetic, the task's number of threads and otherwise its own defaults.

    Raises:
        InvalidArgument: no such peer, or its package is not installed.
        CannotServe: the peer has no way to run this network or this batch.
    """
    return _module(name).prepare(task)


def meter(name: str, task: Task, only: Collection[str] = ()) -> Meter | None:
    """A peer with its profiler on; None where it has none that tells the time of each run (OpenVINO: averages only).

    Args:
        only: the peer's names of the operators whose time counts; if empty, all but changes of layout.
    """
    module = _module(name)
    return module.meter(task, only) if hasattr(module, "meter") else None


def _module(name: str) -> Any:
    module, package, command = PEERS[check_name(name)]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise InvalidArgument(
            f"the peer {name!r} needs {package}, which cannot be imported: {error}", command
        ) from error
    return importlib.import_module(f"waterline.bench.peers.{module}")
