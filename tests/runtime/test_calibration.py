"""Calibration: plausible rates once, the stored ones afterwards, and every reason to measure again."""

import errno
import json
import logging
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from waterline.machine import CATALOGUE, Bandwidth, detect
from waterline.runtime import calibration
from waterline.runtime.calibration import MAX_AGE_S, PROVISIONAL_AGE_S, buffer_sizes, calibrate, measure_peak

HERE = detect()
RATES = {
    "peak_flops_per_s": 1e11,
    "peak_all_flops_per_s": 2e11,
    "bandwidth": Bandwidth(l2=1e11, l3=5e10, dram=2e10, dram_all=3e10),
    "provenance": "measured in a test",
}


@pytest.fixture
def measurements(monkeypatch) -> list:
    """Replaces the measurement; the list grows with each one."""
    done: list = []

    def measure(machine, on_progress):
        done.append(machine)
        on_progress("a test")
        return {**RATES, "provenance": f"measurement {len(done)}"}, MAX_AGE_S

    monkeypatch.setattr(calibration, "_measure", measure)
    return done


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def edit(folder: Path, **changes) -> None:
    record = json.loads(only_file(folder).read_text())
    only_file(folder).write_text(json.dumps({**record, **changes}))


# ---- measuring ------------------------------------------------------------------------------------------------------
@pytest.mark.alone
def test_measured_rates_are_plausible(tmp_path):
    lines = []
    start = time.perf_counter()
    machine = calibrate(HERE, tmp_path, on_progress=lines.append)
    assert time.perf_counter() - start < 10  # 0.6 s on a quiet machine
    assert len(lines) >= 4
    assert 1e9 < machine.peak_flops_per_s < 2e12
    assert 0.3 * machine.peak_flops_per_s < machine.peak_all_flops_per_s < 2 * HERE.cores * machine.peak_flops_per_s
    rates = machine.bandwidth
    assert 1e8 < rates.dram <= rates.l3 < 2e12
    assert rates.dram <= rates.dram_all
    assert 1e9 < rates.l2 < 2e12
    assert machine.provenance.startswith("measured 20")
    assert replace(machine, peak_flops_per_s=None, peak_all_flops_per_s=None, bandwidth=None, provenance="") == replace(
        HERE, provenance=""
    )
    assert calibrate(HERE, tmp_path) == machine  # to the last digit: it was stored
    assert "while other" in machine.provenance or json.loads(only_file(tmp_path).read_text())["lifetime_s"] == MAX_AGE_S


def test_peak_of_one_core_and_of_two():
    assert measure_peak(HERE, 0.01) > 1e9
    assert measure_peak(HERE, 0.01, threads=2) > 1e9


@pytest.mark.alone
def test_narrow_vectors_are_slower():
    if HERE.isa != "avx512":
        pytest.skip("needs AVX-512")
    assert measure_peak(HERE.restricted("sse2")) < 0.6 * measure_peak(HERE)


def test_little_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(calibration, "available_memory_bytes", lambda: 1 << 20)
    machine = calibrate(replace(HERE, cores=1), tmp_path)
    assert "too little memory" in machine.provenance
    assert machine.bandwidth.dram <= machine.bandwidth.l3
    assert json.loads(only_file(tmp_path).read_text())["lifetime_s"] == PROVISIONAL_AGE_S


def test_a_limit_on_address_space(monkeypatch):
    real = calibration._Buffer

    def limited(bytes_):
        if bytes_ > 32 << 20:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real(bytes_)

    monkeypatch.setattr(calibration, "_Buffer", limited)
    assert "too little memory" in calibrate(replace(HERE, cores=1), None).provenance


def test_a_machine_without_l3(monkeypatch):
    monkeypatch.setattr(calibration, "available_memory_bytes", lambda: 1 << 20)
    rates = calibrate(replace(HERE, cores=1, l3_bytes=0), None).bandwidth
    assert rates.l3 == rates.dram


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda machine: machine.name)
def test_buffer_sizes(machine):
    step = 512
    l2, l3, dram = buffer_sizes(machine, step)
    assert [size % step for size in (l2, l3, dram)] == [0, 0, 0]
    assert machine.l1d_bytes < l2 < machine.l2_bytes
    if machine.l3_bytes:
        assert machine.l2_bytes < l3 <= machine.l3_bytes
    else:
        assert l3 == 0
    assert dram > max(machine.l3_bytes, machine.l2_bytes)
    assert dram <= 512 << 20


# ---- keeping --------------------------------------------------------------------------------------------------------
def test_measures_once(tmp_path, measurements):
    first = calibrate(HERE, tmp_path / "new" / "folder")
    assert first.bandwidth == RATES["bandwidth"]
    assert calibrate(HERE, tmp_path / "new" / "folder") == first
    assert len(measurements) == 1


def test_force(tmp_path, measurements):
    calibrate(HERE, tmp_path)
    assert calibrate(HERE, tmp_path, force=True).provenance == "measurement 2"
    assert calibrate(HERE, tmp_path).provenance == "measurement 2"


def test_without_a_folder(measurements):
    calibrate(HERE, None)
    calibrate(HERE, None)
    assert len(measurements) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"features": HERE.features | {"another"}},
        {"l2_bytes": HERE.l2_bytes + 1},
        {"l3_bytes": HERE.l3_bytes + 1},
        {"cores": HERE.cores + 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_machine_is_measured(tmp_path, measurements, change):
    calibrate(HERE, tmp_path)
    calibrate(replace(HERE, **change), tmp_path)
    assert len(measurements) == 2


def test_the_name_does_not_matter(tmp_path, measurements):
    calibrate(HERE, tmp_path)
    assert calibrate(replace(HERE, name="renamed"), tmp_path).name == "renamed"
    assert len(measurements) == 1


def test_restrictions_are_kept_side_by_side(tmp_path, measurements):
    base = "neon" if HERE.arch == "aarch64" else "sse2"
    restricted = replace(HERE, features=frozenset({base}))
    for _ in range(2):
        calibrate(HERE, tmp_path)
        calibrate(restricted, tmp_path)
    assert len(measurements) == 2
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("what", ["waterline", "kernel", "format", "caches"])
def test_rates_of_another_version_are_stale(tmp_path, measurements, what):
    calibrate(HERE, tmp_path)
    key = json.loads(only_file(tmp_path).read_text())["key"]
    assert what in key
    edit(tmp_path, key={**key, what: "another"})
    calibrate(HERE, tmp_path)
    assert len(measurements) == 2
    calibrate(HERE, tmp_path)
    assert len(measurements) == 2


@pytest.mark.parametrize(
    ("age_s", "lifetime_s", "measured"),
    [
        (MAX_AGE_S - 60, MAX_AGE_S, 1),
        (MAX_AGE_S + 60, MAX_AGE_S, 2),
        (MAX_AGE_S + 60, 1e12, 2),
        (-86400.0, MAX_AGE_S, 2),  # the clock was set back
        (PROVISIONAL_AGE_S - 60, PROVISIONAL_AGE_S, 1),
        (PROVISIONAL_AGE_S + 60, PROVISIONAL_AGE_S, 2),
    ],
)
def test_age(tmp_path, measurements, age_s, lifetime_s, measured):
    calibrate(HERE, tmp_path)
    edit(tmp_path, time_s=time.time() - age_s, lifetime_s=lifetime_s)
    calibrate(HERE, tmp_path)
    assert len(measurements) == measured


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        "\x00\xff",
        "[" * 100_000,
        {"rates": {}},
        {"rates": None},
        {"time_s": "yesterday"},
        {"time_s": None},
        {"lifetime_s": -1},
        {"rates": {**RATES, "bandwidth": {"l2": 1.0}}},
        {"rates": {**RATES, "bandwidth": dict(vars(RATES["bandwidth"]), l3=float("nan"))}},
        {"rates": {**RATES, "bandwidth": vars(RATES["bandwidth"]), "peak_flops_per_s": 0}},
        {"rates": {**RATES, "bandwidth": vars(RATES["bandwidth"]), "peak_flops_per_s": float("inf")}},
        {"rates": {**RATES, "bandwidth": vars(RATES["bandwidth"]), "peak_flops_per_s": True}},
        {"rates": {**RATES, "bandwidth": vars(RATES["bandwidth"]), "peak_flops_per_s": "fast"}},
    ],
)
def test_damaged_files_are_replaced(tmp_path, measurements, damage):
    calibrate(HERE, tmp_path)
    if isinstance(damage, str):
        only_file(tmp_path).write_text(damage, encoding="latin-1")
    else:
        edit(tmp_path, **damage)
    assert calibrate(HERE, tmp_path).bandwidth == RATES["bandwidth"]
    assert len(measurements) == 2
    calibrate(HERE, tmp_path)
    assert len(measurements) == 2


def test_a_file_cut_in_half(tmp_path, measurements, caplog):
    calibrate(HERE, tmp_path)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        calibrate(HERE, tmp_path)
    assert "ignoring the calibration" in caplog.text
    assert len(measurements) == 2


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_written(tmp_path, measurements, monkeypatch, caplog, code):
    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("waterline.runtime.cache.os.replace", fail)
    with caplog.at_level(logging.WARNING):
        assert calibrate(HERE, tmp_path).peak_flops_per_s == 1e11
    assert os.strerror(code) in caplog.text
    assert not list(tmp_path.iterdir())


def _calibrate_often(folder: str, rounds: int) -> None:
    for _ in range(rounds):
        calibration._measure = lambda machine, on_progress: (RATES, MAX_AGE_S)
        machine = calibrate(HERE, Path(folder), force=True)
        assert calibrate(HERE, Path(folder)).bandwidth == machine.bandwidth == RATES["bandwidth"]


def test_processes_that_calibrate_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_calibrate_often, args=(str(tmp_path), 50)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert only_file(tmp_path).suffix == ".json"
