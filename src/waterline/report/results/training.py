"""ConvFirst and ConvNeXt on equal terms, for the page of ConvFirst: the tables with what they rest on."""

from __future__ import annotations

from collections.abc import Sequence

from waterline.errors import InvalidArgument
from waterline.report import experiments
from waterline.report.results.runs import Machine, source

EXPERIMENT = "training"


def training_block(machines: Sequence[Machine]) -> str:
    """The tables of the machine that was measured last.

    Raises:
        InvalidArgument: there are no such records.
    """
    machine = next((each for each in machines if EXPERIMENT in each.experiments), None)
    if machine is None:
        raise InvalidArgument("there are no records of training", "`waterline experiment training` makes them")
    file, found = machine.experiments[EXPERIMENT]
    parts = [f"{machine.title} ({machine.summary}); {source(file, found)}."]
    return "\n\n".join([*parts, *(table.to_markdown() for table in experiments.tables(found))])
