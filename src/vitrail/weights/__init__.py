"""Files to models and back: the self-describing model file."""

from vitrail.weights.modelfile import Card, load, read_card, save

__all__ = ["Card", "load", "read_card", "save"]
