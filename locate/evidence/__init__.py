"""Evidence: runs with controls and within a budget, and sets of sites with what they carry together."""

from locate.evidence.budget import Budget
from locate.evidence.controls import Controls
from locate.evidence.run import foretold, trace
from locate.evidence.sets import Sets

__all__ = ["Budget", "Controls", "Sets", "foretold", "trace"]
