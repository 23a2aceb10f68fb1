"""Looking into networks and their results: tables and pictures."""

from npresnet.inspect.summary import Row, Summary, summary

__all__ = ["Row", "Summary", "summary"]
