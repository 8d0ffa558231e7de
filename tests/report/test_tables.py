"""Tables: aligned text, Markdown, and the figures in them."""

from __future__ import annotations

import io
from typing import Any

import pytest

from waterline.report.tables import Table, comparison, milliseconds, per_layer, percent, short_shape

TABLE = Table("title", ("<name", "value"), [("a|b", "1.0"), ("long name", "10.25")], [("sum", "11.25")], ["a note"])


def test_text() -> None:
    assert TABLE.to_text().splitlines() == [
        "title",
        "name       value",
        "---------  -----",
        "a|b          1.0",
        "long name  10.25",
        "---------  -----",
        "sum        11.25",
        "a note",
    ]


def test_markdown() -> None:
    assert TABLE.to_markdown().splitlines() == [
        "**title**",
        "",
        "| name | value |",
        "| :--- | ---: |",
        "| a\\|b | 1.0 |",
        "| long name | 10.25 |",
        "| **sum** | **11.25** |",
        "",
        "a note",
    ]


def test_a_file_gets_plain_text() -> None:
    stream = io.StringIO()
    TABLE.print(stream)
    assert stream.getvalue() == TABLE.to_text() + "\n"


def test_a_terminal_gets_every_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    TABLE.print(stream)
    for text in ("title", "a|b", "long name", "10.25", "11.25", "a note"):
        assert text in stream.getvalue()


def record(model: str, engine: str, median_ms: float, ratio: float, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "engine": engine,
        "batch": 1,
        "threads": 2,
        "median_ms": median_ms,
        "p10_ms": median_ms,
        "p90_ms": 2 * median_ms,
        "computational_efficiency": 0.5,
        "ratio": {"median": ratio, "p10": ratio, "p90": ratio},
        **more,
    }


def test_comparison() -> None:
    records = [
        record("one", "waterline", 2.0, 1.0),
        record("one", "slow", 8.0, 4.0),
        record("one", "fast", 2.0, 1.0),
        record("two", "waterline", 2.0, 1.0),
        record("two", "slow", 8.0, 4.0),
        record("two", "fast", 8.0, 4.0),
    ]
    table = comparison(records)
    assert [row[0] for row in table.rows] == ["one", "", "", "two", "", ""]
    assert table.rows[1][3:6] == ("slow", "8.00", "8.00")
    assert table.notes == [
        "2 threads, 2 models, slow / waterline: geometric mean 4.000, least 4.000",
        "2 threads, 2 models, fast / waterline: geometric mean 2.000, least 1.000",
        "2 threads, 2 models, the fastest peer / waterline: geometric mean 2.000, least 1.000",
    ]


def test_one_network_has_no_mean_and_algorithms_are_told_apart() -> None:
    table = comparison([record("one", "waterline", 2.0, 1.0, algorithm="indirect"), record("one", "fast", 2.0, 1.0)])
    assert table.notes == []
    assert table.rows[0][3] == "waterline (indirect)"


def test_kernels_of_layers_have_columns_of_their_own() -> None:
    records = [
        record("one", "waterline", 2.0, 1.0, kernel_ms=0.5, kernel_efficiency=0.9),
        record("one", "fast", 2.0, 1.0),
    ]
    table = comparison(records)
    assert table.columns[-2:] == ["kernel us", "of peak"]
    assert table.rows[0][-2:] == ("500.0", "90.0 %")
    assert table.rows[1][-2:] == ("", "")


def test_per_layer() -> None:
    conv = {"name": "conv1", "shape": "1x64x56x56", "algorithm": "indirect", "time_ns": 3000, "flops": 6000}
    conv |= {"bound_ns": 1500, "effective_flops_per_s": 2e9, "computational_efficiency": 0.5}
    pool = {"name": "pool", "shape": "1x64x28x28", "algorithm": "", "time_ns": 1000, "flops": 0}
    pool |= {"bound_ns": 1000, "effective_flops_per_s": 0.0, "computational_efficiency": 0.0}
    phase = {"time_ns": 600, "flops": 1200, "bound_ns": 300, "flops_per_s": 2e9, "efficiency": 0.5}
    phases = [{"name": "gemm", "share": 0.2, "limit": "peak", **phase}]
    conv["phases"], pool["phases"] = phases, []
    totals = {"time_ns": 4000, "flops": 6000, "bound_ns": 2500}
    totals |= {"effective_flops_per_s": 1.5e9, "computational_efficiency": 0.375}
    totals["waterline"] = 0.6
    machine = {"threads": 2, "peak_flops_per_s": 4e9, "bytes_per_s": 1e9}
    machine["phase_sums"] = [{"algorithm": "winograd:f4x4", "layers": 1, "time_ns": 600, "phases": phases}]
    facts = {"rows": [conv, pool], "totals": totals, **machine}
    table, short = per_layer(facts), per_layer(facts, phases=False)
    assert short.rows == [table.rows[0], table.rows[2]]
    assert short.notes == table.notes[:1]
    assert "60.0 % of peak" in table.notes[0]
    assert table.rows[0][3:] == ("3.0", "75.0 %", "2.0", "50.0 %", "1.5", "50.0 %")
    assert table.rows[2][3:] == ("1.0", "25.0 %", "", "", "1.0", "100.0 %")
    assert [row[0] for row in table.rows] == ["conv1", "  gemm", "pool"]
    assert table.rows[1][1:3] == ("  20.0 % of it", "")
    assert table.rows[1][3:] == ("0.6", "15.0 %", "2.0", "50.0 %", "0.3", "50.0 %")
    assert table.notes[1:] == ["winograd:f4x4, 1 layer: gemm 20.0 % (50 % of peak)"]
    assert table.totals[0][3:] == ("4.0", "100.0 %", "1.5", "37.5 %", "2.5", "62.5 %")


@pytest.mark.parametrize(
    ("value", "text"), [(123.456, "123"), (12.3456, "12.3"), (1.23456, "1.23"), (0.0123456, "0.0123"), (0.0, "0.000")]
)
def test_milliseconds(value: float, text: str) -> None:
    assert milliseconds(value) == text


def test_percent() -> None:
    assert (percent(0.1234), percent(float("nan"))) == ("12.3 %", "-")


@pytest.mark.parametrize(
    ("shape", "short"),
    [
        ("n1_c64_h56_w56_k128_r3_s3_st2_pd1_dl1_g1_f32", "64x56x56 3x3/2 -> 128"),
        ("n4_c64_h56_w7_k64_r3_s1_st1x2_pd1_dl2x1_g8_f32", "4x64x56x7 3x1/1x2 -> 64 g8 dl2x1"),
        ("1x64x28x28", "1x64x28x28"),
    ],
)
def test_short_shape(shape: str, short: str) -> None:
    assert short_shape(shape) == short
