"""Figures of analyses and records, drawn with matplotlib (an extra: `waterline[plots]`)."""
