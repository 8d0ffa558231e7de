"""The GPU suite's side that imports neither PyTorch nor Triton: what becomes of processes that end, hang or cannot
begin. The process that measures is a small script here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from waterline.bench.gpu import suite
from waterline.bench.gpu.suite import Wanted
from waterline.errors import Error, InvalidArgument

SCRIPT = """
import json, os, sys, time
task = json.loads(open(sys.argv[1]).read())
log = open(sys.argv[2], "a")

def tell(**line):
    log.write(json.dumps(line) + "\\n")
    log.flush()

def begin(key, variant, limit_s=60.0, **record):
    record = {"protocol": "gpu layers", "engine": "waterline", "algorithm": variant, **record}
    tell(begin={"key": key, "variant": variant, "record": record, "limit_s": limit_s, "time_s": time.time()})

def measured(key):
    if key not in task["done"]:
        tell(case=key, records=[{"model": key, "ended": task["ended"], "unprepared": task["unprepared"]}])

def end(*left):
    tell(left=list(left), records=[{"left": list(left)}])

"""


def run(tmp_path, body: str, seconds: float = 60.0) -> tuple[suite.Report, list]:
    script = tmp_path / "measures.py"
    script.write_text(SCRIPT + body)
    kept: list = []
    report = suite.run(Wanted(seconds=seconds), kept.extend, [sys.executable, str(script)])
    assert kept == report.records
    return report, kept


def test_records_are_kept_as_they_come(tmp_path):
    report, kept = run(tmp_path, "measured('a'); measured('b'); end('c')")
    assert [record.get("model") for record in kept] == ["a", "b", None]
    assert report.left == ["c"]
    assert report.failures == []
    assert report.restarts == 0


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ("os._exit(11)", "the process ended with status 11"),
        ("os.kill(os.getpid(), 9)", "the process ended with status -9"),
        ("tell(lost='RuntimeError: an illegal memory access'); os._exit(70)", "RuntimeError: an illegal memory access"),
        ("begin('b', 'winograd', 0.3); time.sleep(60)", "it took more than 0 s"),
    ],
)
def test_what_was_at_work_when_the_process_ended_is_left_out_from_then_on(tmp_path, capfd, last, why):
    body = f"""
measured('a')
if not task["ended"]:
    begin('b', 'winograd')
    {last}
measured('b')
end()
"""
    report, (first, failed, second, _) = run(tmp_path, body)
    assert first["model"] == "a"
    assert (failed["algorithm"], failed["error"]) == ("winograd", why)
    assert second["ended"] == [["b", "winograd"]]
    assert report.restarts == 1
    assert report.failures == [failed]
    assert f"b, winograd: {why}" in capfd.readouterr().err


def test_a_case_that_ends_the_process_while_it_is_timed_is_done(tmp_path):
    report, (failed, other, _) = run(tmp_path, "if not task['done']: begin('a', ''); os._exit(1)\nmeasured('b'); end()")
    assert failed["error"].endswith("status 1")
    assert other["model"] == "b"
    assert report.restarts == 1


def test_a_process_that_ends_while_it_compiles_ahead_compiles_no_more_of_it(tmp_path):
    body = "if not task['unprepared']: begin('a', 'preparing', keys=['a', 'b']); os._exit(1)\nmeasured('a'); end()"
    _, (only, _) = run(tmp_path, body)
    assert only["unprepared"] == ["a", "b"]


def test_a_process_that_ends_with_nothing_at_work_is_the_last(tmp_path):
    report, _ = run(tmp_path, "measured('a'); os._exit(5)")
    assert report.left == ["everything behind it: the process ended with status 5, with nothing at work"]


def test_a_process_that_lingers_after_its_last_line_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "LINGER_S", 0.5)
    report, _ = run(tmp_path, "measured('a'); end(); time.sleep(60)")
    assert (report.left, report.restarts) == ([], 0)


def test_nothing_is_begun_again_without_time(tmp_path):
    report, _ = run(tmp_path, "begin('a', 'winograd'); os._exit(1)", seconds=suite.LEAST_S)
    assert report.left == ["everything behind it, for want of time after a process that ended"]


def test_a_process_that_does_not_end_in_time_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "GRACE_S", 0.5)
    report, (_, failed) = run(tmp_path, "measured('a'); begin('b', 'winograd'); time.sleep(60)", seconds=1.0)
    assert failed["error"] == "stopped 0 s after the end of the time"
    assert len(report.left) == 1


def test_a_process_that_cannot_begin(tmp_path, monkeypatch):
    with pytest.raises(InvalidArgument, match="cannot run"):
        run(tmp_path, f"sys.exit({suite.MISTAKE})")
    with pytest.raises(Error, match="status 3 before it had begun"):
        run(tmp_path, "sys.exit(3)")
    monkeypatch.setattr(suite, "START_LIMIT_S", 0.5)
    with pytest.raises(Error, match="before it had begun"):
        run(tmp_path, "time.sleep(60)")


def test_wrong_results_are_found(tmp_path):
    found = "[{'model': 'a', 'disagreement': 1.5}, {'disagreement': 1}]"
    report, _ = run(tmp_path, f"tell(case='a', records={found}); end()")
    assert [record["model"] for record in report.wrong] == ["a"]


def test_the_command_imports_neither_pytorch_nor_triton():
    code = "import sys, waterline.cli.bench; assert not {'torch', 'triton'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
