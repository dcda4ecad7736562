"""torchvision's pure-Python transforms beside a CPU build of torch, to compare the augmentation with."""

import tests.support.torchvision_operators  # noqa: F401, I001  (declares the two operators the import insists on)

from torchvision import transforms
from torchvision.transforms.v2 import functional

__all__ = ["functional", "transforms"]
