"""The page of results: which records are shown, machine by machine, and that nothing of the records is left out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from waterline.bench import records
from waterline.bench.records import Record
from waterline.bench.timing import Timing
from waterline.errors import InvalidArgument
from waterline.machine import CATALOGUE, Bandwidth
from waterline.report import results
from waterline.report.results import pages, runs, tables
from waterline.report.results.pictures import draw_all, pictures

ROOT = Path(__file__).resolve().parents[2]
RECORDS, LAYERS, DOCS = ROOT / "benchmarks" / "records", ROOT / "benchmarks" / "layers", ROOT / "docs"
RATES = {"peak_flops_per_s": 2e11, "peak_all_flops_per_s": 4e11, "bandwidth": Bandwidth(2e11, 1e11, 4e10, 8e10)}
ONE = replace(CATALOGUE[0], name="Intel(R) Xeon(R) Processor @ 2.60GHz", cores=2, **RATES)
OTHER = replace(CATALOGUE[1], name="AMD EPYC", cores=2, **RATES)
LAYER = "n1_c64_h56_w56_k64_r3_s3_st1_pd1_dl1_g1_f32"


def measured(model: str = "resnet18", engine: str = "waterline", ms: float = 1.0, **more: Any) -> Record:
    """A record as `waterline bench` writes it, of the machine and day that `more` names."""
    machine, day, commit = more.pop("machine", ONE), more.pop("day", "2026-11-20"), more.pop("commit", "0123456789ab")
    labels = {"model": model, "dtype": "float32", "batch": 1, "engine": engine, "threads": 1}
    timing = Timing(engine, [[1e6 * ms]])
    record = records.measurement(timing, flops=10**9, peak_flops_per_s=1e12, **labels)
    record["ratio"] = {"median": more.pop("ratio", 1.0), "p10": 1.0, "p90": 1.0}
    common = records.environment(machine, {"waterline": "0.1.0", "onnxruntime": "1.31.1"})
    return {**common, "date": f"{day}T00:00:00+00:00", "commit": commit, **record, **more}


def pair(ms: float, ratio: float, **more: Any) -> list[Record]:
    """Ours and ONNX Runtime's."""
    return [measured(ms=ms, **more), measured(engine="onnxruntime", ms=ms * ratio, ratio=ratio, **more)]


def machines_of(folder: Path, **files: list[Record]) -> list[runs.Machine]:
    for name, found in files.items():
        records.append(folder / f"{name}.jsonl", found)
    return results.read(folder)


# ---- which records --------------------------------------------------------------------------------------------------
def test_the_newest_of_a_comparison_is_shown(tmp_path: Path) -> None:
    old, new = pair(2.0, 1.5, day="2026-11-20"), pair(1.0, 3.0, day="2026-11-21")
    other = pair(5.0, 2.0, model="vgg16", day="2026-11-19")
    (machine,) = machines_of(tmp_path, networks=[*new, *old, *other])
    assert machine.of("networks") == [*new, *other]
    table = tables.networks(machine.of("networks"))
    assert table.rows == [["resnet18", "1", "1.00", "3.00", "3.00"], ["vgg16", "1", "5.00", "10.0", "2.00"]]
    assert table.totals == [["geometric mean", "1", "", "", "2.45"]]


def test_the_fastest_peer_is_the_one_with_the_least_ratio(tmp_path: Path) -> None:
    found = [*pair(1.0, 3.0), measured(engine="openvino", ms=2.0, ratio=2.0)]
    (row,) = tables.networks(found).rows
    assert row == ["resnet18", "1", "1.00", "3.00", "2.00", "2.00"]
    assert tables.networks(found).headings[-1] == "the faster of the two / Waterline"
    (alone,) = tables.networks([measured()]).rows
    assert alone[-1] == ""


def test_machines_are_told_apart_by_what_they_are(tmp_path: Path) -> None:
    again = replace(ONE, peak_flops_per_s=1e11)  # measured on another day
    larger = replace(ONE, l2_bytes=2 * ONE.l2_bytes)
    found = [measured(machine=ONE, day="2026-11-20"), measured(machine=again, day="2026-11-22", model="vgg16")]
    found += [measured(machine=larger, day="2026-11-21"), measured(machine=OTHER, day="2026-11-19")]
    machines = machines_of(tmp_path, networks=found)
    assert [machine.title for machine in machines] == [
        "Xeon with 2 cores, 2 MB L2",
        "Xeon with 2 cores, 4 MB L2",
        "EPYC",
    ]
    assert [len(machine.of("networks")) for machine in machines] == [2, 1, 1]
    assert "100 GFLOP/s a core" in machines[0].describe()
    assert machines[0].describe().startswith("AVX-512, 2 cores, ")


def test_machines_that_nothing_tells_apart_in_words_are_numbered(tmp_path: Path) -> None:
    less = replace(ONE, features=ONE.features - {"amx-tile"})
    machines = machines_of(tmp_path, networks=[measured(machine=ONE), measured(machine=less)])
    titles = [machine.title for machine in machines]
    assert titles == ["Xeon with 2 cores, 2 MB L2", "Xeon with 2 cores, 2 MB L2, number 2"]


def test_a_machine_that_is_only_named(tmp_path: Path) -> None:
    tuned = {"date": "2026-11-21T00:00:00+00:00", "commit": "ab", "protocol": "waterline tune", "model": "resnet18"}
    machines = machines_of(tmp_path, networks=[measured()], tuning=[{**tuned, "machine": ONE.name}])
    assert [record["model"] for record in machines[0].of("tuning", "waterline tune")] == ["resnet18"]
    with pytest.raises(InvalidArgument, match="0 machines are called"):
        machines_of(tmp_path, more=[{**tuned, "machine": "no such"}])


def test_layers_by_what_was_compared(tmp_path: Path) -> None:
    """One layer may be in several lists, measured with the algorithms of each."""
    kernel = {"kernel_ms": 0.5, "kernel_efficiency": 0.9}
    direct = [measured(LAYER, algorithm=name, **kernel) for name in ("indirect", "direct_gemm")]
    default = [measured(LAYER, algorithm="winograd", day="2026-11-21", **kernel)]
    default += [measured(LAYER, engine=name, day="2026-11-21", ratio=2.5) for name in ("onnxruntime", "openvino")]
    (machine,) = machines_of(tmp_path, layers=[*direct, *default])
    sections = {section.key: section.select(machine) for section in pages.sections(LAYERS)}
    assert sections["layers direct"] == direct
    assert sections["layers 3x3"] == default
    assert sections["layers grouped"] == sections["layers fft"] == []
    assert tables.share_of_peak(direct).rows[1][1:] == ["direct_gemm", "500.0", "90.0 %"]
    (note,) = tables.against_peers(default).notes
    assert "ONNX Runtime on 1 of 1 layers, OpenVINO on 1 of 1" in note


def test_a_source_names_every_commit_and_day() -> None:
    found = [measured(), measured(day="2026-11-21", commit="ab+"), measured()]
    assert runs.source("networks", found[:1]) == "`networks.jsonl`, commit 0123456789ab (2026-11-20)"
    text = runs.source("networks", found)
    assert text.endswith("commits ab+ (2026-11-21, 1 of 3 records), 0123456789ab (2026-11-20, 2 of 3 records)")


# ---- the page -------------------------------------------------------------------------------------------------------
def test_a_text_is_said_once_where_its_table_is_first(tmp_path: Path) -> None:
    machines = machines_of(tmp_path, networks=[*pair(1, 2), *pair(3, 2, machine=OTHER)])
    text = results.page(machines, LAYERS, {"introduction": "Hello.", "networks": "About networks."})
    assert text.startswith("Hello.\n\n* [")
    assert text.count("About networks.") == 1
    assert text.count("### Networks") == 2
    assert text.count("ONNX Runtime 1.31.1.") == 2
    assert "### Overhead" not in text


def test_a_text_for_nothing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no section 'netwroks'"):
        results.page([], LAYERS, {"netwroks": "text"})


def test_the_block_of_networks(tmp_path: Path) -> None:
    machines = machines_of(tmp_path, networks=[*pair(1, 2, machine=OTHER), *pair(3, 2, day="2026-11-21")])
    block = results.networks_block(machines)
    assert block.startswith("Xeon (AVX-512, 2 cores), against ONNX Runtime 1.31.1; `networks.jsonl`, commit ")
    assert "| resnet18 | 1 | 3.00 | 6.00 | 2.00 |" in block
    with pytest.raises(InvalidArgument, match="no records of networks"):
        results.networks_block([])


def test_figures_are_drawn_for_both_kinds_of_readers_and_stale_ones_go(tmp_path: Path) -> None:
    machines = results.read(RECORDS)
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "gone.svg").write_text("<svg/>")
    written = draw_all(machines[:1], folder)
    assert sorted(folder.iterdir()) == sorted(written)
    assert len(written) == 2 * sum(map(len, pictures(machines[0]).values())) > 0
    light, dark = (path.read_text(encoding="utf-8") for path in sorted(written)[1::-1])
    assert light != dark


# ---- the records and the page of this project -----------------------------------------------------------------------
def test_the_figures_of_the_page_are_there() -> None:
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:src|srcset)="(figures/[^"]+)"', text))
    assert named == {f"figures/{path.name}" for path in (DOCS / "figures").glob("*.svg")}


def test_every_measurement_is_on_the_page_or_was_made_again() -> None:
    """Each comparison of each file is shown, unless a newer one of the same is."""
    sections = pages.sections(LAYERS)
    for machine in results.read(RECORDS):
        shown: list[Record] = [record for section in sections for record in section.select(machine)]
        shown += [record for _, found in machine.experiments.values() for record in found]
        for file, found in machine.files.items():
            for record in runs.newest(found):
                same = [each for each in shown if runs.labels(each) == runs.labels(record)]
                assert same, f"{file}.jsonl has {runs.labels(record)}, which no table shows"
