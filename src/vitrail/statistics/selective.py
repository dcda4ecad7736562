"""What is gained by answering only where the model is sure: error against coverage, and the threshold for a goal."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

COVERAGES = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class RiskCoverage:
    """Errors among the most confident images.

    Args:
        coverage: the share of the images that is answered, rising to 1.
        risk: errors among these.
        area: mean risk over all coverages (AURC); smaller is better.
    """

    coverage: Float64[np.ndarray, "n"]
    risk: Float64[np.ndarray, "n"]
    area: float

    def accuracy_at(self, coverage: float) -> float:
        """Accuracy of the most confident images that make up this share."""
        return 1 - float(self.risk[max(0, int(np.searchsorted(self.coverage, coverage - 1e-12)))])


def risk_coverage(confidence: Float64[np.ndarray, "N"], correct: Bool[np.ndarray, "N"]) -> RiskCoverage:
    """Errors as less confident images are answered too; images of equal confidence are answered together.

    Source: El-Yaniv and Wiener 2010, JMLR 11:1605; AURC: Geifman et al. 2019, arXiv:1805.08206.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, wrong = confidence[order], np.cumsum(~correct[order])
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    answered = last + 1
    risk = wrong[last] / answered
    area = float(np.sum(risk * np.diff(np.concatenate(([0], answered)))) / len(confidence))
    return RiskCoverage(answered / len(confidence), risk, area)


def threshold_for(
    accuracy: float, confidence: Float64[np.ndarray, "N"], correct: Bool[np.ndarray, "N"]
) -> tuple[float, float] | None:
    """The lowest confidence at which answers reach an accuracy, and the share that is then answered; None: none does.

    Args:
        accuracy: the goal, in [0, 1].
    """
    found = risk_coverage(confidence, correct)
    good = np.flatnonzero(1 - found.risk >= accuracy)
    if not len(good):
        return None
    answered = round(float(found.coverage[good[-1]]) * len(confidence))
    return float(np.sort(confidence)[::-1][answered - 1]), float(found.coverage[good[-1]])
