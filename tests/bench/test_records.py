"""Records: complete, append-only, readable again."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from waterline.bench import records
from waterline.bench.timing import Timing
from waterline.errors import InvalidArgument
from waterline.machine import CATALOGUE

MACHINE = next(iter(CATALOGUE.values())) if isinstance(CATALOGUE, dict) else CATALOGUE[0]


def record() -> records.Record:
    timing = Timing("waterline", [[2e6, 2e6], [4e6, 2e6]])
    labels = {"model": "resnet18", "engine": "waterline", "dtype": "float32", "batch": 1, "threads": 2}
    return records.measurement(timing, flops=4_000_000, peak_flops_per_s=4e9, **labels)


def test_what_the_interface_promises_is_there() -> None:
    promised = {"model", "engine", "dtype", "batch", "threads", "samples", "flops", "computational_efficiency"}
    promised |= {"median_ms", "p10_ms", "p90_ms"}
    found = record()
    assert promised <= set(found)
    assert found["median_ms"] == 2.0
    assert found["samples"] == [2.0, 2.0, 4.0, 2.0]
    assert found["computational_efficiency"] == pytest.approx(0.5)


def test_a_run_describes_itself() -> None:
    environment = records.environment(MACHINE, {"onnxruntime": "1.0"})
    assert environment["machine"]["features"]
    assert environment["versions"] == {"onnxruntime": "1.0"}
    assert environment["date"].endswith("+00:00")
    json.dumps(environment)


def test_appending(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records.append(path, [record()])
    first = path.read_bytes()
    records.append(path, [record(), record()])
    assert path.read_bytes().startswith(first)
    assert records.read(path) == [record()] * 3


def test_a_line_that_was_cut_off_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"model": "resn')
    records.append(path, [record()])
    lines = path.read_text().splitlines()
    assert json.loads(lines[1]) == record()
    with pytest.raises(InvalidArgument, match=r"records\.jsonl:1"):
        records.read(path)


def test_of_many_samples_some_are_kept() -> None:
    """Those of all rounds alike; what follows from them is of all."""
    times = [float(i) * 1e6 for i in range(1, 10_001)]
    found = records.measurement(Timing("a", [times[:5_000], times[5_000:]]), flops=1, peak_flops_per_s=1.0)
    assert (len(found["samples"]), found["sample_count"]) == (records.MOST_SAMPLES, 10_000)
    assert found["samples"] == sorted(found["samples"])
    assert sum(sample > 5_000 for sample in found["samples"]) == records.MOST_SAMPLES / 2
    assert found["median_ms"] == 5_000.5
    assert records.thinned([3.0, 1.0]) == [3.0, 1.0]
    assert records.thinned([]) == []


def test_samples_have_four_significant_digits() -> None:
    timing = Timing("waterline", [[12_345_678.0, 1_234.5678, 987_654_321.0]])
    assert records.measurement(timing, flops=1, peak_flops_per_s=1.0)["samples"] == [12.35, 0.001235, 987.7]


# ---- what is the same for a run ------------------------------------------------------------------------------------
def test_a_run_is_described_once_and_read_back_in_every_record(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    environment = records.environment(MACHINE, {"onnxruntime": "1.0"})
    written = [{**environment, **record(), "batch": batch} for batch in range(3)]
    records.append(path, written[:1])
    records.append(path, written[1:])
    assert records.read(path) == written
    assert len(path.read_text().splitlines()) == 4
    assert path.read_text().count(json.dumps(MACHINE.name)) == 1


def test_another_machine_or_version_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    written = [{**records.environment(MACHINE, {"onnxruntime": version}), **record()} for version in ("1.0", "2.0")]
    records.append(path, [*written, *written])
    assert records.read(path) == [*written, *written]
    assert path.read_text().count('"environment"') == 2


def test_a_date_is_that_of_the_record(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    environment = records.environment(MACHINE, {})
    written = [{**environment, **record(), "date": f"2026-11-2{day}T00:00:00+00:00"} for day in range(2)]
    records.append(path, written)
    assert [found["date"][:10] for found in records.read(path)] == ["2026-11-20", "2026-11-21"]


def test_lines_of_files_from_before_are_read(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    old, new = ({**records.environment(MACHINE, {}), **record(), "batch": batch} for batch in (1, 2))
    path.write_text(json.dumps(old) + "\n")
    records.append(path, [new])
    assert records.read(path) == [old, new]


def test_a_description_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    written = {**records.environment(MACHINE, {}), **record()}
    records.append(path, [written])
    path.write_bytes(path.read_bytes()[:200])
    records.append(path, [written])
    broken, *whole = path.read_text().splitlines()
    assert broken.startswith('{"run":')
    path.write_text("\n".join(whole))
    assert records.read(path) == [written]


def test_a_record_of_a_run_that_is_not_described(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"run":"0123","a":1}\n')
    with pytest.raises(InvalidArgument, match=r":1 is of the run '0123'"):
        records.read(path)


@pytest.mark.parametrize("line", ["[1, 2]", "3", "{", "nothing"])
def test_what_is_no_record_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"a": 1}\n\n' + line + "\n")
    with pytest.raises(InvalidArgument, match=":3"):
        records.read(path)


def test_infinity_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        records.append(tmp_path / "records.jsonl", [{"ratio": float("inf")}])
    assert not (tmp_path / "records.jsonl").exists()


# ---- the commit -----------------------------------------------------------------------------------------------------
def test_a_commit_is_marked_if_the_package_was_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    file = tmp_path / "src" / "waterline" / "bench" / "records.py"
    file.parent.mkdir(parents=True)
    file.write_text("# records")
    monkeypatch.setattr(records, "__file__", str(file))

    def commit() -> str | None:
        records.commit.cache_clear()
        return records.commit()

    try:
        assert commit() is None
        git("init")
        assert commit() is None
        git("add", ".")
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "first")
        clean = commit()
        assert clean is not None
        assert re.fullmatch("[0-9a-f]{12}", clean)
        (tmp_path / "records.jsonl").write_text("{}")
        assert commit() == clean
        file.write_text("# changed")
        assert commit() == f"{clean}+"
    finally:
        records.commit.cache_clear()
