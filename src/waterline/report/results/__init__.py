"""The page of results, written from the records: docs/generate.py calls it."""

from waterline.report.results.gaps import gaps_block
from waterline.report.results.gpu import read as read_gpus
from waterline.report.results.pages import networks_block, page, read_texts
from waterline.report.results.pictures import draw_all
from waterline.report.results.runs import read
from waterline.report.results.training import training_block

__all__ = ["draw_all", "gaps_block", "networks_block", "page", "read", "read_gpus", "read_texts", "training_block"]
