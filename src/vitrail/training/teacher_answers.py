"""What a teacher answered for the views of a run, kept for the next run that has the same views.

A view is a pure function of (seed, epoch, place in the epoch), given the data and the augmentation; so are the
teacher's answers. One file holds those of one epoch, float16 [N, L] in the order of the epoch, in a folder named by the
hash of everything they depend on. It appears whole or not at all, so that several runs may share the folder.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from vitrail import fsio
from vitrail.config import Preprocessing, RunConfig, to_json
from vitrail.data import ImageSet
from vitrail.data.decoded_cache import make_room
from vitrail.errors import SaveError
from vitrail.locations import teacher_cache
from vitrail.run import describe_numerics
from vitrail.terminal import say
from vitrail.training.teacher import Teacher

# Raised whenever the same settings make other views or other answers.
_CACHE_VERSION = 1
_NOT_IN_A_VIEW = ("root", "ram_budget_mib", "cache_gib", "ahead_mib")
"""Settings of `data` that no view depends on, given the fingerprint of the images."""


class Answers:
    """Answers for the batches of a run, of the teacher or of an earlier run.

    Args:
        teacher: answers what is not known yet.
        folder: of the answers; None: none are kept.
        num_images: of an epoch.
        batch_size: of all batches of an epoch but the last.
        limit: bytes that all folders of answers may take.
    """

    def __init__(
        self, teacher: Teacher, folder: Path | None, *, num_images: int, batch_size: int, limit: int = 1 << 62
    ) -> None:
        self.teacher, self.folder, self.limit = teacher, folder, limit
        self.num_images, self.batch_size = num_images, batch_size
        self._epoch = -1
        self._kept: np.ndarray | None = None
        self._new: list[Tensor] = []

    def __call__(self, images: Float[Tensor, "B C H W"], epoch: int, batch_number: int) -> Float16[Tensor, "B L"]:
        """The teacher's logits for the views of a batch, less the largest one of each image.

        Args:
            images: the views at full size, normalised as the run's preprocessing says.
            epoch, batch_number: which of the run's batches it is, each from 0.
        """
        if self.folder is None:
            return self.teacher(images)
        if epoch != self._epoch:
            self._epoch, self._new, self._kept = epoch, [], self._find(epoch)
        first = batch_number * self.batch_size
        if self._kept is not None:
            return torch.from_numpy(self._kept[first : first + len(images)]).to(images.device)
        answers = self.teacher(images)
        self._note(answers, batch_number)
        return answers

    def _path(self, epoch: int) -> Path:
        assert self.folder
        return self.folder / f"epoch-{epoch + 1:05}.f16"

    def _find(self, epoch: int) -> np.ndarray | None:
        """The answers of a whole epoch in an earlier run; None: there are none."""
        path, num_labels = self._path(epoch), len(self.teacher.columns)
        try:
            if path.stat().st_size != 2 * self.num_images * num_labels:
                return None
            found = np.memmap(path, dtype=np.float16, mode="c", shape=(self.num_images, num_labels))
        except OSError:
            return None
        with contextlib.suppress(SaveError):  # a folder that may only be read is used as it is
            fsio.touch(path)
        return found

    def _note(self, answers: Tensor, batch_number: int) -> None:
        """Keep the answers for a batch until those of the whole epoch are there, then write them.

        An epoch that this process did not see from its beginning is not kept.
        """
        if batch_number != len(self._new):
            return
        if self._new:  # not the newest ones, which the device may still compute
            self._new[-1] = self._new[-1].cpu()
        self._new.append(answers)
        if sum(map(len, self._new)) == self.num_images:
            self._write(torch.cat([part.cpu() for part in self._new]).numpy())
            self._new = []

    def _write(self, answers: np.ndarray) -> None:
        """Keep the answers of an epoch; where there is no room, say so and keep no more."""
        assert self.folder
        without = "Use --no-distill.cache, which keeps none"
        try:
            make_room(self.folder.parent, answers.nbytes, self.limit, "teacher's answers", without, self.folder)
            fsio.write_bytes(self._path(self._epoch), answers.data)
        except SaveError as error:
            say(f"the teacher's answers are not kept from here on: {error}")
            self.folder = None


def open_answers(
    teacher: Teacher, config: RunConfig, preprocessing: Preprocessing, train_set: ImageSet, *, processes: int
) -> Answers:
    """What answers in a run.

    Args:
        preprocessing, train_set: of the run.
        processes: that share the run; the answers of several are not kept.
    """
    is_kept = config.distill.cache and processes == 1
    return Answers(
        teacher,
        teacher_cache() / _key(teacher, config, preprocessing, train_set) if is_kept else None,
        num_images=len(train_set),
        batch_size=config.data.batch_size,
        limit=int(config.data.cache_gib * 2**30),
    )


def _key(teacher: Teacher, config: RunConfig, preprocessing: Preprocessing, train_set: ImageSet) -> str:
    """A hash of what the answers depend on: what `Inputs` makes views from, the teacher, and what computes them."""
    data: dict[str, Any] = {name: v for name, v in to_json(config.data).items() if name not in _NOT_IN_A_VIEW}
    parts = [
        _CACHE_VERSION, config.seed, to_json(config.augment), data, to_json(preprocessing), train_set.fingerprint,
        train_set.classes, teacher.identity,
        describe_numerics(config, teacher.device, 1, dtype=teacher.dtype, linear="mkl"),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
