"""Choices by measurement against those by cost: a real run, and mistakes in the call."""

from __future__ import annotations

from pathlib import Path

import pytest

from waterline.bench import records, tuned
from waterline.report.results import tables


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "tuning.jsonl"
    words = ["squeezenet1_0", "--image-size", "32", "--threads", "1", "--tune-seconds", "1", "--seconds", "1"]
    assert tuned.main([*words, "--append", str(path)]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert "by measurement ms" in heading
    found = records.read(path)
    assert [record["variant"] for record in found] == [tuned.TUNED, tuned.BY_COST]
    mine, by_cost = found
    assert mine["ratio"]["median"] == 1.0
    assert by_cost["ratio"]["median"] > 0
    assert mine["layers"] == 26 >= mine["measured"] >= mine["changed"]
    (row,) = tables.tuned(found).rows
    assert row[:3] == ["squeezenet1_0", "1", f"{mine['measured']} of 26"]
    assert line.split()[0] == "squeezenet1_0"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("resnet", "'resnet'", "did you mean resnet"),
        ("resnet18 --threads 4096", "4096", "at most"),
        ("resnet18 --tune-seconds 0", "--tune-seconds", "--help"),
        ("resnet18 --append no/such/folder/file.jsonl", "no/such/folder/file.jsonl", "path"),
    ],
)
def test_a_mistake(arguments: str, message: str, hint: str, capsys: pytest.CaptureFixture) -> None:
    assert tuned.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert first.startswith("tuned: ")
    assert message in first
    assert second.startswith("hint: ")
    assert hint in second
    assert not out
