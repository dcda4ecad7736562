"""The data doctor: leaks and near duplicates, suspect labels, outliers, odd images; it ranks and shows, and changes
nothing.

In: an opened data set, what `data.check` found in it, a model whose features are compared. Out: ranked findings, and a
page of pairs.
"""

from vitrail.doctor.findings import GUESSES, SURE, examine, kept
from vitrail.doctor.gallery import write_gallery

__all__ = ["GUESSES", "SURE", "examine", "kept", "write_gallery"]
