"""Tracing: prompts x patches -> one table of log-probabilities and its provenance."""

from locate.tracing.table import Trace, load_trace

__all__ = ["Trace", "load_trace"]
