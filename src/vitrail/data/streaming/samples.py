"""The images and labels of a WebDataset shard, and the chunks that it is read in.

A *sample* is a run of members with the same key: the path up to the first dot of the base name. Its image is told by
the extension, its label by `.cls` (a number or a name), else by a field of `.json`. A *chunk* is a run of whole samples
of a few megabytes: what one request fetches.

Source: github.com/webdataset/webdataset, whose keys are the same.
"""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitrail.data.sources.labels import Label, check_classes, tidy_labels
from vitrail.data.sources.walk import IMAGE_SUFFIXES
from vitrail.data.streaming.table import CHUNK, MEMBER, ShardTable
from vitrail.data.streaming.tars import Forward, Member, members_of, text
from vitrail.reading import parsed_json

IMAGE_EXTENSIONS = frozenset({suffix[1:] for suffix in IMAGE_SUFFIXES} | {"img", "image"})
MAX_IMAGE_BYTES = 1 << 30
_MAX_LABEL_BYTES = 1 << 20
_LABEL_FIELDS = ("label", "class", "cls")
_KEY = re.compile(rb"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class Rules:
    """How shards are cut and understood.

    Args:
        chunk_bytes: a chunk ends with the sample that brings it to this size.
        digests: hash each chunk, for which all bytes are read.
        text_labels: the label is the `.txt` member.
    """

    chunk_bytes: int = 4 << 20
    digests: bool = False
    text_labels: bool = False

    @property
    def label_extensions(self) -> tuple[bytes, ...]:
        """Of members that may say the label."""
        return (b"txt",) if self.text_labels else (b"cls", b"json")


@dataclass
class _Sample:
    """The members of one key. `start` is where its first header is, `stop` where the next sample may begin."""

    key: bytes
    start: int
    stop: int
    images: list[tuple[bytes, Member]] = field(default_factory=list)
    label: Label = None
    seen: set[bytes] = field(default_factory=set)

    def add(self, member: Member, extension: bytes) -> None:
        """Raise ValueError where the extension was there before, or the image is too large."""
        if extension in self.seen:
            raise ValueError(f"the member {text(member.name)} is there twice")
        self.seen.add(extension)
        self.stop = member.stop
        kind = extension.rpartition(b".")[2].decode(errors="replace")
        if kind in IMAGE_EXTENSIONS:
            if member.size > MAX_IMAGE_BYTES:
                raise ValueError(f"the image {text(member.name)} has {member.size} bytes")
            self.images.append((extension, member))

    def image(self) -> Member | None:
        """The one whose extension has no second dot, else the only one, as `.rgb.jpg`; ValueError for several."""
        plain = [member for extension, member in self.images if b"." not in extension]
        found = plain or [member for _, member in self.images]
        if len(found) > 1:
            raise ValueError(f"the key {text(self.key)} has {len(found)} images")
        return found[0] if found else None


def scan(shard: Forward, rules: Rules) -> ShardTable:
    """Find the samples of a tar and cut them into chunks.

    Args:
        shard: the tar.
        rules: of chunks and labels.
    Raises:
        ValueError: as `members_of`; a key that comes back after another one; a label that is none.
    """
    building = _Building(shard, rules)
    sample: _Sample | None = None
    keys: set[bytes] = set()
    for member in members_of(shard, building.notes):
        matched = _KEY.fullmatch(member.name)
        if matched is None:
            building.num_ignored += 1
            continue
        key, extension = matched[1], matched[2].lower()
        if sample is None or key != sample.key:
            if sample is not None:
                building.add(sample)
            if key in keys:
                raise ValueError(f"the members of {text(key)} are not one behind the other; write it with --sort=name")
            keys.add(key)
            sample = _Sample(key, member.start, member.start)
        sample.add(member, extension)
        building.reach(member)
        if extension in rules.label_extensions and (extension == b"cls" or sample.label is None):
            found = _label(shard, member)
            sample.label = sample.label if found is None else found
    if sample is not None:
        building.add(sample)
    building.end_chunk()
    return building.table()


class _Building:
    """Chunks, images and labels, as far as a shard was read."""

    def __init__(self, shard: Forward, rules: Rules) -> None:
        self.shard, self.rules = shard, rules
        self.start: int | None = None  # of the chunk
        self.stop = self.count = self.num_ignored = 0
        self.digest = hashlib.blake2b(digest_size=16)
        self.chunks: list[tuple[int, int, int, int, bytes]] = []
        self.members: list[tuple[int, int, int]] = []
        self.values: dict[Label, int] = {}
        self.keys: list[bytes] = []
        self.notes: list[str] = []

    def reach(self, member: Member) -> None:
        """Let the chunk reach to the end of a member."""
        if self.start is None:
            self.start = self.stop = member.start
        stop = min(member.stop, self.shard.size)
        while self.rules.digests and self.stop < stop:
            piece = self.shard.read(self.stop, min(stop - self.stop, self.shard.piece))
            self.digest.update(piece)
            self.stop += len(piece)
        self.stop = stop

    def add(self, sample: _Sample) -> None:
        """A sample whose members were all passed to `reach`; the chunk ends here if it is large enough."""
        image = sample.image()
        if image is None:
            self.num_ignored += 1
        else:
            code = self.values.setdefault(sample.label, len(self.values))
            self.members.append((image.offset, image.size, code))
            self.keys.append(sample.key)
            self.count += 1
        if self.start is not None and self.stop - self.start >= self.rules.chunk_bytes:
            self.end_chunk()

    def end_chunk(self) -> None:
        """The next member begins another chunk. One without images is none."""
        if self.start is not None and self.count:
            digest = self.digest.digest() if self.rules.digests else bytes(16)
            if self.stop - self.start >= 1 << 32:
                raise ValueError(f"a sample of {self.stop - self.start} bytes")
            self.chunks.append((0, self.start, self.stop - self.start, self.count, digest))
        self.start, self.count, self.digest = None, 0, hashlib.blake2b(digest_size=16)

    def table(self) -> ShardTable:
        """What was found."""
        return ShardTable(
            chunks=np.array(self.chunks, dtype=CHUNK),
            members=np.array(self.members, dtype=MEMBER),
            values=tuple(self.values),
            keys=b"".join(self.keys),
            key_ends=np.cumsum([len(key) for key in self.keys], dtype=np.uint64),
            num_ignored=self.num_ignored,
            notes=tuple(self.notes),
        )


def _label(shard: Forward, member: Member) -> Label:
    """What a `.cls` or `.txt` says, or a field of a `.json`; None where it names no class."""
    where = text(member.name)
    if member.size > _MAX_LABEL_BYTES:
        raise ValueError(f"the label {where} has {member.size} bytes")
    try:
        words = shard.read(member.offset, member.size).decode("utf-8").strip()
        if not member.name.lower().endswith(b".json"):
            label = int(words) if _WHOLE.fullmatch(words) else tidy_labels([words], where)[0]
        else:
            found: Any = parsed_json(words)
            name = next((name for name in _LABEL_FIELDS if name in found), None) if isinstance(found, dict) else None
            label = None if name is None else tidy_labels([found[name]], f"{where}, {name}")[0]
    except ValueError as error:
        kind = "no text" if isinstance(error, UnicodeDecodeError) else f"no JSON: {error}"
        raise ValueError(f"{where}: {kind}") from error
    check_classes([label])
    return label
