"""Augmentation: uint8 batches in, normalised float batches out, on the device, each image with its own parameters."""

from vitrail.augment.masking import patch_masks
from vitrail.augment.mixing import Mix, targets_of
from vitrail.augment.transform import Augment, prepare

__all__ = ["Augment", "Mix", "patch_masks", "prepare", "targets_of"]
