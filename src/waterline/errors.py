"""The errors that users see: one line that says what is wrong and where, and one hint."""

from __future__ import annotations


class Error(Exception):
    """Base of every error that Waterline raises on purpose.

    Args:
        message: one line: what was given, what is accepted, where (the node's name).
        hint: one line: what to do about it. May be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class InvalidArgument(Error, ValueError):
    """An argument of a call has a wrong value, shape or type."""


class InvalidModel(Error, ValueError):
    """A model file or module is damaged or contradicts itself."""


class UnsupportedOperator(Error, NotImplementedError):
    """The model uses operators that Waterline does not compute. The message names all of them."""


class Refused(Error):
    """An algorithm that was asked for by name does not serve this layer or this machine."""
