"""Kernels that are compiled at once, before they are needed, are those that launches find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from waterline.codegen.gpu.ahead import compile_ahead


def test_launches_find_what_was_compiled_ahead(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("gpu_ahead_process.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["asked"] == found["compiled"] == 3  # the input's transform, the products and the output's
    assert found["again"] == 0
    # Without time a kernel that has not begun is compiled when it is first used: once.
    assert found["late"] == 1
    assert found["all"] == found["compiled"] + 1


def test_the_interpreter_compiles_nothing():
    assert compile_ahead([], 1.0) == 0
