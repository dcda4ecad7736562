"""Speed, measured side by side: contenders take turns in one run, and what counts is their ratio."""

from vitrail.bench.fresh import in_fresh_process, peak_memory_mib
from vitrail.bench.measure import Comparison, Figures, Work, compare, rate_of

__all__ = [
    "Comparison",
    "Figures",
    "Work",
    "compare",
    "in_fresh_process",
    "peak_memory_mib",
    "rate_of",
]
