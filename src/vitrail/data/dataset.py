"""SPEC -> decoded splits: labels, pixels and names of what could be read, and what could not."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64, UInt8

from vitrail.config import DataConfig, Preprocessing
from vitrail.config.checks import pair
from vitrail.data.choice import Store, choose_store
from vitrail.data.decoded_cache import DECODING, can_cache
from vitrail.data.image_set import ImageSet
from vitrail.data.on_demand import OnDemand
from vitrail.data.order import hold_out
from vitrail.data.sources import (
    NAMED_SETS,
    Source,
    Split,
    case_twins,
    class_index,
    few,
    join_splits,
    nfc,
    open_source,
    pack_preprocessing,
    take_rows,
)
from vitrail.data.store import decode_split, decode_whole, fitted_bytes, whole_bytes, whole_split
from vitrail.errors import DataError, ImageError, shown

_SPLITS = ("train", "val", "test")
_WORTH_SHARING = 64 << 20
"""Bytes from which on processes of a machine have decoded images in common, in a mapped file."""


def load(
    config: DataConfig,
    splits: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    source: Source | None = None,
    progress: bool = False,
    random_crops: bool = False,
    shared: bool = False,
    needs_labels: bool = True,
) -> dict[str, ImageSet]:
    """Open a data set and decode some of its splits. A named set that is missing is downloaded.

    "val" is the source's own validation split; where it has none, a stratified part of "train" (validation_fraction,
    seed) is held out, and "train" then loses these examples if it is asked for in the same call. "all" is everything
    that the source has.

    Args:
        config: which data set, and how it is split.
        splits: some of "train", "val", "test", "all".
        classes: the class list of a model; labels follow it, and classes without examples are fine.
        preprocessing: that of a model; default: `preprocessing_for(config)`.
        source: the data set, where `open_source` has opened it already.
        progress: show bars on stderr.
        random_crops: training cuts random parts out of the images of "train", which are then kept whole, or not at all.
        shared: other processes of this machine load the same; what is kept goes to a mapped file.
        needs_labels: as of `open_source`, which must have opened `source` in the same way.
    Raises:
        SaveError: the images are to be kept in a file, and it cannot be written.
        DataError: no such data set or split, a class that the training set or the model does not have, a single
            class, a class too small to be split, or not one readable image in a split.
    """
    source = source or open_source(config, may_download=True, progress=progress, needs_labels=needs_labels)
    if classes is None and needs_labels:
        _check_can_be_learnt(source)
    preprocessing = preprocessing or preprocessing_for(config)
    _check_packed_as(source, preprocessing)
    label_map = labels_in_model(source, classes) if classes is not None else np.arange(len(source.classes))
    result: dict[str, ImageSet] = {}
    for name, (split, ids) in chosen_splits(source, config, splits).items():
        store = choose_store(config, split, preprocessing, random_crops=random_crops and name == "train")
        kept = _kept(source, name, split, store, config, preprocessing, shared=shared, progress=progress)
        if not len(kept.positions):
            raise _nothing_readable(source, name, kept.errors)
        final = tuple(classes) if classes is not None else source.classes
        image_set = _image_set(name, final, label_map, split, ids, kept)
        notes = (*source.notes, *case_twins(source.classes), *((store.note,) if store.note else ()))
        result[name] = replace(image_set, notes=notes)
    return result


def preprocessing_for(config: DataConfig, native_size: tuple[int, int] | None = None) -> Preprocessing:
    """How the images of a data set become input.

    Equal values of mean or std stand for any number of channels.

    Args:
        config: sizes, resize, channels and normalisation.
        native_size: (height, width) that all images share; default: known for named sets, else None.
    """
    decode_size = pair(config.decode_size)
    if not all(decode_size):
        named = NAMED_SETS.get(config.spec)
        packed = None if named else pack_preprocessing(config.spec)
        own_size = named.native_size if named else packed and packed.decode_size
        decode_size = native_size or own_size or pair(config.image_size)
    mean, std = (_for_channels(values, 3 if config.channels == "RGB" else 1) for values in (config.mean, config.std))
    return Preprocessing(
        image_size=pair(config.image_size),
        decode_size=decode_size,
        resize_mode=config.resize_mode,
        resize_filter=config.resize_filter,
        # Images that are kept at another size are resized whole: there is nothing to cut out of their edge.
        resize_size=pair(config.resize_size) if config.resize_size and decode_size == pair(config.image_size) else None,
        crop_rounding=config.crop_rounding,
        fast_decoding=config.fast_decoding,
        icc=config.icc,
        channels=config.channels,
        mean=mean,
        std=std,
    )


def available_splits(config: DataConfig, *, source: Source | None = None, progress: bool = False) -> tuple[str, ...]:
    """Names that `load` takes for this data set, where they are not known. Raises DataError.

    Args:
        source: the data set, where `open_source` has opened it already; a named set that is missing is downloaded.
    """
    return tuple(_available(source or open_source(config, may_download=True, progress=progress), config))


# ---- splits ------------------------------------------------------------------------------------------------------


def chosen_splits(
    source: Source, config: DataConfig, names: Sequence[str]
) -> dict[str, tuple[Split, Int64[np.ndarray, "N"]]]:
    """The wanted splits with the ids of their examples; "val" is made out of "train" where it is missing."""
    own = {name: (split, np.arange(len(split))) for name, split in source.splits.items()}
    available = _available(source, config)
    can_hold_out = "val" in available and "val" not in own
    for name in names:
        if name not in available:
            raise DataError(
                f"{shown(source.name)} has no split {name!r}.",
                got=next((note for note in source.notes if note.startswith(f"{name}: ")), name),
                expected=f"one of {', '.join(available)}",
                do="Choose one with --split (eval) or --evaluation.split (train), or add the split to the data.",
            )
    if "val" in names and can_hold_out:
        train = source.splits["train"]
        held = hold_out(train.labels, source.classes, config.validation_fraction, config.seed)
        own["val"] = (take_rows(train, held), held)
        rest = np.setdiff1d(np.arange(len(train)), held, assume_unique=True)
        own["train"] = (take_rows(train, rest), rest)
    if "all" in names:
        everything = join_splits(source.splits[name] for name in _SPLITS if name in source.splits)
        own["all"] = (everything, np.arange(len(everything)))
    return {name: own[name] for name in names}


def _available(source: Source, config: DataConfig) -> list[str]:
    """The source's own splits, "val" where it can be held out, and "all"."""
    can_hold_out = "train" in source.splits and config.validation_fraction > 0
    return [name for name in _SPLITS if name in source.splits or (name == "val" and can_hold_out)] + ["all"]


def _for_channels(values: tuple[float, ...], num_channels: int) -> tuple[float, ...]:
    return values[:1] * num_channels if len(set(values)) == 1 else values


def labels_in_model(source: Source, classes: Sequence[str]) -> Int64[np.ndarray, "L"]:
    """Label of the model for each label of the source, -1 for classes that no example has."""
    used = {label for split in source.splits.values() for label in np.unique(split.labels)}
    model_classes = list(classes)
    found, known = [source.classes[label] for label in sorted(used)], {nfc(name) for name in classes}
    if len(found) > 1 and not any(nfc(name) in known for name in found):
        raise DataError(
            f"{shown(source.name)} has none of the model's classes.",
            got=f"{len(found)} classes: {few(found)}",
            expected=f"some of the model's {len(classes)}: {few(model_classes)}",
            do="Other classes have to be learnt first: vitrail finetune MODEL --data SPEC",
        )
    return np.array(
        [
            class_index(name, model_classes, source.name, "the model") if label in used else -1
            for label, name in enumerate(source.classes)
        ],
        dtype=np.int64,
    )


def _check_can_be_learnt(source: Source) -> None:
    """Raise DataError where a class has no images at all, or there is nothing to tell apart."""
    if source.empty:
        raise DataError(
            f"{shown(source.name)}: a folder of a class has no images: {few(source.empty)}.",
            expected="images in every class folder",
            do=f"Add images, or remove the folder; vitrail data check {shown(source.name)} says what is there.",
        )
    if len(source.classes) < 2:
        raise DataError(
            f"{shown(source.name)} has a single class.",
            got=few(source.classes),
            expected="at least two, to tell apart",
            do="Put the images of each class into a folder of its own.",
        )


def _check_packed_as(source: Source, wanted: Preprocessing) -> None:
    """Raise DataError where images were packed in another way than they are wanted."""
    if source.packed_as is None:
        return
    for name in DECODING:
        have, want = getattr(source.packed_as, name), getattr(wanted, name)
        if have != want:
            again = _pack_again(name, want)
            raise DataError(
                f"{shown(source.name)} was packed with another {name.replace('_', '-')}.",
                got=have,
                expected=want,
                do=f"{again}, or use the data it was packed from." if again else "Use the data it was packed from.",
            )


def _pack_again(name: str, want: object) -> str:
    """How to pack in the way that is wanted; empty where `vitrail data pack` has no option for it."""
    if name == "fast_decoding":
        return f"Pack it again {'with' if want else 'without'} --fast-decoding"
    if name in ("channels", "resize_mode", "icc"):
        return f"Pack it again with --{name.replace('_', '-')} {want}"
    if name == "decode_size" and isinstance(want, tuple):
        sides = want[:1] if len(set[object](want)) == 1 else want
        return f"Pack it again with --image-size {'x'.join(map(str, sides))}"
    return ""


@dataclass(frozen=True)
class _Kept:
    """What is kept of a split: images, the positions of those there are, the errors of the others, and a digest."""

    images: UInt8[np.ndarray, "N C H W"] | OnDemand
    positions: Int64[np.ndarray, "N"]
    errors: tuple[ImageError, ...]
    content: str


def _kept(
    source: Source,
    name: str,
    split: Split,
    store: Store,
    config: DataConfig,
    preprocessing: Preprocessing,
    *,
    shared: bool,
    progress: bool,
) -> _Kept:
    ahead_bytes, cache_bytes = config.ahead_mib << 20, int(config.cache_gib * 2**30)
    if store.kind == "files":
        everything = np.arange(len(split))
        images = OnDemand(split, preprocessing, ahead_bytes=ahead_bytes)
        return _Kept(images, everything, (), f"{source.num_bytes} bytes of files")
    budget, title = config.ram_budget_mib << 20, f"{source.name} {name}"
    num_bytes = fitted_bytes(split, preprocessing) if store.kind == "memory" else whole_bytes(split, preprocessing)
    if shared and (num_bytes < _WORTH_SHARING or not can_cache(num_bytes, cache_bytes)):
        shared = False
    if store.kind == "memory":
        found = decode_split(
            split, preprocessing, listing=source.listing, ram_budget_bytes=0 if shared else budget, progress=progress,
            title=title, cache_bytes=cache_bytes,
        )  # fmt: skip
        return _Kept(found.pixels, found.kept, found.errors, f"{found.pixels.shape} {found.pixels_sha256}")
    in_memory = not shared and num_bytes <= budget
    whole = decode_whole(
        split, preprocessing, listing=source.listing, in_memory=in_memory, progress=progress, title=title,
        cache_bytes=cache_bytes,
    )  # fmt: skip
    images = OnDemand(whole_split(split, whole), preprocessing, ahead_bytes=ahead_bytes)
    return _Kept(images, whole.kept, whole.errors, f"whole {whole.pixels_sha256}")


def _image_set(
    name: str,
    classes: tuple[str, ...],
    label_map: Int64[np.ndarray, "L"],
    split: Split,
    ids: Int64[np.ndarray, "N"],
    kept: _Kept,
) -> ImageSet:
    is_all = len(kept.positions) == len(split)
    labels = label_map[split.labels[kept.positions]]
    names = split.names if is_all else [split.names[int(i)] for i in kept.positions]
    digest = hashlib.sha256()
    for text in (*classes, "", *names):
        digest.update(text.encode(errors="surrogateescape") + b"\0")
    digest.update(labels.tobytes())
    digest.update(kept.content.encode())
    return ImageSet(
        name,
        classes,
        kept.images,
        labels,
        ids[kept.positions],
        names,
        kept.errors,
        digest.hexdigest(),
        chunk_starts=split.chunk_starts,
        follow=split.follow,
    )


def _nothing_readable(source: Source, split: str, errors: Sequence[ImageError]) -> DataError:
    return DataError(
        f"{shown(source.name)}: not one image of {split!r} could be read." + (" The first ones:" if errors else ""),
        listed=errors[:3],
        got=f"{len(errors)} unreadable images" if errors else "no examples",
        expected="at least one image that can be decoded",
    )
