"""What counts and probabilities say, and how sure it is: intervals, paired tests, calibration. NumPy and SciPy alone.

In: counts, or arrays with one row an image. Out: numbers, each with its interval where it has one.
"""

from vitrail.statistics.calibration import (
    Bins,
    Temperature,
    brier,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    noise_floor,
    reliability,
)
from vitrail.statistics.intervals import bootstrap, wilson
from vitrail.statistics.paired import Paired, compare_paired, detectable_points, holm, mcnemar
from vitrail.statistics.selective import RiskCoverage, risk_coverage, threshold_for

__all__ = [
    "Bins",
    "Paired",
    "RiskCoverage",
    "Temperature",
    "bootstrap",
    "brier",
    "compare_paired",
    "detectable_points",
    "expected_calibration_error",
    "fit_temperature",
    "holm",
    "mcnemar",
    "negative_log_likelihood",
    "noise_floor",
    "reliability",
    "risk_coverage",
    "threshold_for",
    "wilson",
]
