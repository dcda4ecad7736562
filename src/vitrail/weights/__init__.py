"""Files to models and back: the self-describing model file, and the audited reader of every other family."""

from vitrail.weights.adapt import Head
from vitrail.weights.modelfile import Card, read_card, save
from vitrail.weights.reader import builtin_names, is_own, load

__all__ = ["Card", "Head", "builtin_names", "is_own", "load", "read_card", "save"]
