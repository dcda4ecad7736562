"""Where in an image a class was read from: one number a patch, by several methods, and how faithful each map is.

In: a model, its card, decoded images. Out: `Explanations`, and pictures of them. docs/explain.md is the guide.
"""

from vitrail.explanation.explaining import explain_images
from vitrail.explanation.explanations import Explanation, Explanations, Options
from vitrail.explanation.faithfulness import Faithfulness
from vitrail.explanation.methods import METHODS
from vitrail.explanation.sheet import draw_sheets, is_drawable

__all__ = [
    "METHODS",
    "Explanation",
    "Explanations",
    "Faithfulness",
    "Options",
    "draw_sheets",
    "explain_images",
    "is_drawable",
]
