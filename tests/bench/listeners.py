"""Who listens to an experiment in a test."""

from __future__ import annotations


class Listener:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, text: str) -> None:
        pass


class Strict(Listener):
    """Nothing is to be said: an experiment speaks of what it leaves out."""

    def say(self, text: str) -> None:
        raise AssertionError(text)
