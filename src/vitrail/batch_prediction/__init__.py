"""Any number of images -> a folder of parts, one for each unit of the input, by any number of workers. No torch.

A unit is a shard, a run of row groups, or at most ten thousand files; its part has a name that the job and the unit
decide. So a killed worker loses one part, the next call does what is missing, and workers that do the same unit write
equal rows.
"""

from vitrail.batch_prediction.inputs import find_units
from vitrail.batch_prediction.job import Job, Part
from vitrail.batch_prediction.parts import Form, check_form
from vitrail.batch_prediction.units import Inputs, Unit
from vitrail.batch_prediction.work import Done, do_parts

__all__ = ["Done", "Form", "Inputs", "Job", "Part", "Unit", "check_form", "do_parts", "find_units"]
