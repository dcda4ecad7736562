"""Which split a folder, a file or a cell of a table names, in the words that people use for train, val and test."""

import re
from collections.abc import Iterable
from pathlib import PurePath

_WORDS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
    **dict.fromkeys(("训练集", "训练", "訓練集", "訓練"), "train"),
    **dict.fromkeys(("验证集", "验证", "驗證集", "驗證"), "val"),
    **dict.fromkeys(("测试集", "测试", "測試集", "測試"), "test"),
}
_FILLERS = frozenset({"", "set", "split", "data", "dataset", "image", "images", "img", "imgs", "folder", "files"})
# "train", "trainset", "train2017"; a longer word that only begins so, as "trainer" or "testament", is none.
_SPLIT_WORD = re.compile(rf"({'|'.join(sorted(_WORDS, key=len, reverse=True))})(set|data|images|imgs)?\d*")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def named_splits(name: str) -> tuple[frozenset[str], str]:
    """The splits that words of a name mean, and what is left of the name: `Pets_TrainSet` gives train and "pets"."""
    words = re.split(r"[\W_]+", _CAMEL.sub("_", name).casefold())
    matches = {word: _SPLIT_WORD.fullmatch(word) for word in words}
    splits = frozenset(_WORDS[match[1]] for match in matches.values() if match)
    return splits, "_".join(word for word in words if not matches[word] and word not in _FILLERS)


def split_of(name: str) -> str | None:
    """The split that a whole name means, as `Validation` or `test_set`; None where it says anything else too."""
    splits, rest = named_splits(name)
    return next(iter(splits)) if len(splits) == 1 and not rest else None


def split_stems(names: Iterable[str]) -> list[dict[str, str]]:
    """Names that differ in their split alone, as `pets_train` and `pets_test`: name -> split, for each such stem."""
    stems: dict[str, dict[str, str]] = {}
    for name in names:
        splits, rest = named_splits(name)
        if len(splits) == 1:
            stems.setdefault(rest, {})[name] = next(iter(splits))
    return [found for stem, found in sorted(stems.items()) if stem and len(set(found.values())) > 1]


def splits_of_file(path: PurePath) -> frozenset[str]:
    """The splits that a file names, as `pets-train-00000.parquet`, else the nearest folder that names one."""
    for name in (path.stem, *(parent.name for parent in path.parents)):
        splits, _ = named_splits(name)
        if splits:
            return splits
    return frozenset()
