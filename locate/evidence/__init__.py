"""Evidence: runs with controls and within a budget, and sets of sites with what they carry together."""

from locate.evidence.trace import trace

__all__ = ["trace"]
