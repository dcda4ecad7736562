"""Training and exact evaluation: a configuration in, a run directory out.

Paper: "An Image is Worth 16x16 Words", arXiv:2010.11929, section 4 and appendix B.
"""

from vitrail.run import RunResult
from vitrail.runtime.device import pick_device
from vitrail.training.evaluate import Evaluation, evaluate
from vitrail.training.train import train

__all__ = ["Evaluation", "RunResult", "evaluate", "pick_device", "train"]
