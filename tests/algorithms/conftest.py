"""Tests of GPU kernels are slow, as an interpreter computes them: of those with many cases `make test` runs a part."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
IS_THOROUGH = "WATERLINE_TEST_PRECISIONS" in os.environ
MANY, VERY_MANY = 6, 18  # cases of one test: of so many every second one is run, or every third
COMPILES = "compile_well"  # in the names of tests that look at what is compiled: all of their cases are run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if IS_THOROUGH:
        return
    tests: dict[tuple[str, str], list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.path.parent == HERE and item.path.name.startswith("test_gpu"):
            tests[item.path.name, item.originalname].append(item)
    for (_, name), cases in tests.items():
        every = 3 if len(cases) >= VERY_MANY else 2 if len(cases) >= MANY else 1
        for number, case in enumerate(cases):
            if number % every and COMPILES not in name:
                case.add_marker(pytest.mark.skip(reason="more cases of a GPU kernel's test: `make gpu`"))
