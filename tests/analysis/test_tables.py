"""The tables of an analysis, on figures made up by hand."""

from __future__ import annotations

from dataclasses import replace

from analysis.test_definitions import NETWORK
from waterline.report.analysis_tables import block_table, layer_table
from waterline.report.tables import Table


def columns(table: Table, row: int) -> dict[str, str]:
    return dict(zip(table.headings, table.rows[row], strict=True))


def test_layers_come_by_the_time_they_lose():
    table = layer_table(NETWORK)
    assert [row[0] for row in table.rows] == ["a", "b", "d", "c"]
    assert columns(table, 1) == {
        "layer": "b",
        "shape": "",
        "algorithm": "indirect",
        "time us": "1.0",
        "lost us": "0.2",
        "FLOP/B": "2.5",
        "attain %": "25.0",
        "CE %": "20.0",
        "EE %": "20.0",
        "a/m/o %": "20/60/20",
    }
    pool = columns(table, 2)
    assert (pool["FLOP/B"], pool["CE %"], pool["a/m/o %"]) == ("", "", "0/50/50")
    assert table.notes[0] == "Above the bounds: 0.7 us of 3.5 us."


def test_the_worst_layers_only():
    table = layer_table(NETWORK, 2)
    assert table.title == "2 of 4 layers, by the time above the bound"
    assert [row[0] for row in table.rows] == ["a", "b"]
    assert table.notes[0] == "Above the bounds: 0.7 us of 3.5 us, 69.2 % of it in these layers."
    assert layer_table(NETWORK, 99).rows == layer_table(NETWORK).rows


def test_blocks_have_traffic_and_bound_before_and_after():
    table = block_table(NETWORK)
    (row,) = table.rows  # blocks of one layer are not shown
    assert row == ("bcd", "3", "2.2", "63.8 %", "0.015", "0.004", "3.8x", "2.0", "1.2", "1.67x")
    assert table.totals == [("blocks together", *row[1:])]


def test_a_network_without_blocks():
    table = block_table(replace(NETWORK, blocks=NETWORK.blocks[:1]))
    assert not table.rows
    assert not table.totals
    assert "could be one kernel" in table.notes[0]
    assert table.to_text()
