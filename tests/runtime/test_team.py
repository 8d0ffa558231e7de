"""The team of a process: one for all engines, as large as the largest wish, left behind by a forked child."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path

import pytest
from programs import LOCAL, NO_CACHE

from waterline.runtime import team as team_module
from waterline.runtime.cache import ObjectCache
from waterline.runtime.team import Team, team


def names() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("waterline-"))


@pytest.fixture
def no_team(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team_module, "_team", None)


def test_engines_share_one_team(no_team):
    found: list[Team] = []
    workers = [threading.Thread(target=lambda: found.append(team(LOCAL, NO_CACHE))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({id(one) for one in found}) == 1


def test_a_team_grows_to_the_largest_wish_and_never_shrinks():
    made = Team(LOCAL, NO_CACHE)
    before = len(names())
    for helpers, expected in ((0, 0), (2, 2), (1, 2), (3, 3)):
        made.grow(helpers)
        assert len(names()) - before == expected
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("waterline-")), "they end with the process"


def test_a_forked_child_has_a_team_of_its_own(forked):
    parent = team(LOCAL, NO_CACHE)
    parent.grow(1)

    def child() -> None:
        assert names() == []
        own = team(LOCAL, NO_CACHE)
        assert own is not parent
        own.grow(1)
        assert names() == ["waterline-1"]

    assert forked(child) == ""
    assert team(LOCAL, NO_CACHE) is parent


def test_the_walker_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiled: list[str] = []
    compile_object = team_module.compile_object

    def counted(text: str, machine: object) -> bytes:
        compiled.append(text)
        return compile_object(text, machine)

    monkeypatch.setattr(team_module, "compile_object", counted)
    for _ in range(2):
        Team(LOCAL, ObjectCache(tmp_path, "1"))
    assert len(compiled) == 1


def test_helpers_keep_what_they_wait_on(forked):
    """A team that nobody else holds lives on with its helpers, who sleep in its memory."""

    def child() -> None:
        made = Team(LOCAL, NO_CACHE)
        made.grow(3)
        time.sleep(0.02)
        kept = weakref.ref(made)
        del made
        gc.collect()
        assert kept() is not None

    assert forked(child) == ""
