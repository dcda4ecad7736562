"""Files to models and back: the self-describing model file, and the audited reader of every other family."""

from vitrail.weights.adapt import Head
from vitrail.weights.modelfile import Card, filled_model, num_parameters, read_card, save
from vitrail.weights.reader import builtin_names, is_own, load, load_card
from vitrail.weights.writer import Written, write

__all__ = [
    "Card",
    "Head",
    "Written",
    "builtin_names",
    "filled_model",
    "is_own",
    "load",
    "load_card",
    "num_parameters",
    "read_card",
    "save",
    "write",
]
