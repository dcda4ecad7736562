"""What a run or a model came to, for its owner: figures with intervals, a verdict, one HTML and one JSON file.

In: the answers image by image that an evaluation left, the run directory, the images. Out: a `Report` and the texts of
its files. Evaluates nothing and imports no torch.
"""

from vitrail.reporting.privacy import Private
from vitrail.reporting.report import Report, Sources, make, predictions_of, stated_accuracies
from vitrail.reporting.subject import of_model, of_run

__all__ = ["Private", "Report", "Sources", "make", "of_model", "of_run", "predictions_of", "stated_accuracies"]
