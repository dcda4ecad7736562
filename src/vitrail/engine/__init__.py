"""Training and exact evaluation: a configuration in, a run directory out.

Paper: "An Image is Worth 16x16 Words", arXiv:2010.11929, section 4 and appendix B.
"""

from vitrail.engine.evaluate import Evaluation, evaluate
from vitrail.engine.train import train
from vitrail.run import RunResult
from vitrail.run.device import pick_device

__all__ = ["Evaluation", "RunResult", "evaluate", "pick_device", "train"]
