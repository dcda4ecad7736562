"""Manifests: tables as people and their programs write them, and errors that name the line."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.support.folders import write_images
from vitrail.config import DataConfig
from vitrail.data.sources import Source, open_source
from vitrail.data.sources import manifest as room
from vitrail.errors import DataError


def opened(path: Path) -> Source:
    return open_source(DataConfig(spec=str(path)))


def labels_by_name(source: Source, split: str) -> dict[str, str]:
    part = source.splits[split]
    return {name: source.classes[label] for name, label in zip(part.names, part.labels, strict=True)}


def counts(source: Source) -> Mapping[str, list[int]]:
    return {
        name: np.bincount(split.labels, minlength=len(source.classes)).tolist() for name, split in source.splits.items()
    }


def manifest(root: Path, text: str, name: str = "data.csv", encoding: str = "utf-8") -> Path:
    write_images(root / "images", 4)
    (root / name).write_text(text, encoding=encoding)
    return root / name


def test_manifest_with_splits(tmp_path: Path) -> None:
    rows = [
        "images/img0.png,dog,train",
        "images/img1.png,cat,train",
        "images/img2.png,cat,test",
        "images/img3.png,dog,val",
    ]
    source = opened(manifest(tmp_path, "path,label,split\n" + "\n".join(rows) + "\n"))
    assert source.classes == ("cat", "dog")
    assert counts(source) == {"train": [1, 1], "test": [1, 0], "val": [0, 1]}
    assert labels_by_name(source, "train") == {"images/img0.png": "dog", "images/img1.png": "cat"}


def test_manifest_dialects(tmp_path: Path) -> None:
    tabs = opened(
        manifest(tmp_path, "label\tpath\na b\timages/img0.png\n\nc\timages/img1.png\n", "data.tsv", "utf-8-sig")
    )
    assert tabs.classes == ("a b", "c")
    quoted = opened(manifest(tmp_path, 'Path , Label\n"images/img0.png","x, y"\r\nimages/img1.png, z\r\n'))
    assert quoted.classes == ("x, y", "z")
    assert counts(quoted) == {"train": [1, 1]}


def test_manifest_outside_its_folder(tmp_path: Path) -> None:
    path = manifest(tmp_path, "")
    (tmp_path / "lists").mkdir()
    other = tmp_path / "lists" / "data.csv"
    other.write_text(f"path,label\n../images/img0.png,a\n{tmp_path / 'images' / 'img1.png'},b\n")
    assert counts(opened(other)) == {"train": [1, 1]}
    assert path.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images/img0.png,cat\n", "no header"),
        ("", "no header"),
        ("path,label\n", "no examples"),
        ("path,label\nimages/img0.png,a\nimages/gone.png,b\n", r"line 3: the file does not exist(.|\n)*gone\.png"),
        ("path,label\nimages/img0.png,\n", "no example has a label"),
        ("path,label\nimages/a.png,x\nimages/b.png,x\n", r"line 2: (.|\n)*a\.png, the first of 2 in 2 rows"),
        ("path,label,path\nimages/img0.png,x,y\n", "two columns are called 'path'"),
        (
            "name,kind\nimages/img0.png,x\n",
            r"no header(.|\n)*name, kind(.|\n)*file_name(.|\n)*category, class_id, classid as label",
        ),
        ('path,label\n"images/img0.png,x\n', "not a readable table"),
        ("path,label\n,a\n", "line 2: no path"),
        ("path,label,split\nimages/img0.png,a,trian\n", "line 2: unknown split(.|\n)*'trian'"),
        ("path,label\nimages/img0.png\n", "line 2: wrong number of cells"),
        ("path,label,split\nimages/img0.png,a,train\nimages/img1.png,A,test\n", "line 3(.|\n)*'A'(.|\n)*'a'"),
    ],
)
def test_manifest_errors_name_the_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        opened(manifest(tmp_path, text))


def test_semicolons_of_spreadsheets_and_names_of_other_programs(tmp_path: Path) -> None:
    source = opened(
        manifest(
            tmp_path,
            "file_name;category;Subset\nimages/img0.png;a, b;Training\nimages\\img1.png;c;TEST\n".replace(
                "TEST\n", "TEST\nimages/img2.png;c;train_set\n"
            ).replace("img1.png;c;", "img1.png;a, b;"),
        )
    )
    assert (source.classes, counts(source)) == (("a, b", "c"), {"train": [1, 1], "test": [1, 0]})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_what_they_are(tmp_path: Path, encoding: str) -> None:
    path = manifest(tmp_path, "path,label\r\nimages/img0.png,B\u00e4r\r\nimages/img1.png,x\r\n", encoding=encoding)
    assert opened(path).classes == ("B\u00e4r", "x")


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label\nimages/img0.png,x\nimages/img1.png,B\u00e4r\n", encoding="cp1252")
    with pytest.raises(DataError, match="line 3(.|\n)*0xe4(.|\n)*UTF-8"):
        opened(path)


@pytest.mark.parametrize(
    ("encoding", "name", "expected"), [("gbk", "\u72d7", "GB18030"), ("cp1252", "B\u00e4r", "WINDOWS-1252")]
)
def test_the_way_to_utf8_keeps_the_labels(tmp_path: Path, encoding: str, name: str, expected: str) -> None:
    path = manifest(tmp_path, f"path,label\nimages/img0.png,x\nimages/img1.png,{name}\n", encoding=encoding)
    with pytest.raises(DataError, match=f"iconv -f {expected} "):
        opened(path)
    path.write_bytes(path.read_bytes().decode(expected).encode())
    assert opened(path).classes == tuple(sorted((name, "x")))


def test_rows_without_a_label_are_set_aside(tmp_path: Path) -> None:
    rows = ["images/img0.png,a,train", "images/img1.png,b,train", "images/img2.png,,train", "images/img3.png,-1,test"]
    source = opened(manifest(tmp_path, "path,label,split\n" + "\n".join(rows)))
    assert (source.classes, counts(source)) == (("a", "b"), {"train": [1, 1]})
    assert source.notes == (
        "train: 1 of 3 examples have no label and are left out",
        "test: none of its 1 examples has a label; there is no such split",
    )


def test_accents_of_file_names_may_be_stored_apart(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label\nB\u00e4r.png,a\nimages/img1.png,b\n")
    (tmp_path / "images" / "img0.png").rename(tmp_path / "Ba\u0308r.png")
    assert counts(opened(path)) == {"train": [1, 1]}


def test_manifest_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"path,label\n\xff\xfe\x00,a\n")
    with pytest.raises(DataError, match="not a readable table"):
        opened(tmp_path / "data.csv")


@pytest.mark.parametrize(
    ("limit", "value", "text", "words"),
    [
        ("MAX_BYTES", 30, "path,label\nimages/img0.png,a\nimages/img1.png,b\n", "more than 30 bytes"),
        ("MAX_LINES", 3, "path,label\n\n\n\nimages/img1.png,b\n", "more than 3 lines"),
        ("_MAX_LINE", 20, "path,label\nimages/img0.png,aaaaaa\n", "a line of more than 20 characters"),
        ("_MAX_COLUMNS", 3, "path,label,x,y\n", "4 columns"),
    ],
)
def test_what_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, text: str, words: str
) -> None:
    monkeypatch.setattr(room, limit, value)
    with pytest.raises(DataError, match=words):
        opened(manifest(tmp_path, text))


def test_a_manifest_of_another_folder_is_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MOST_MISSING", 3)
    rows = "".join(f"photos/{i}.png,a\n" for i in range(9))
    with pytest.raises(DataError, match=r"photos/0.png, the first of 3 in 3 rows"):
        opened(manifest(tmp_path, f"path,label\n{rows}"))


@pytest.mark.parametrize("before", [0, 3, 9000])
def test_lines_are_counted_as_an_editor_does(tmp_path: Path, before: int) -> None:
    text = "\n" * before + "path,label\n" + "images/img0.png,a\n" * 1000
    with pytest.raises(DataError, match=f"line {before + 1002}: unknown split|line {before + 1002}: wrong number"):
        opened(manifest(tmp_path, text + "images/img1.png,b,c\n"))
    path = manifest(tmp_path, text)
    path.write_bytes(path.read_bytes() + b"images/img1.png,\xe9\n")
    with pytest.raises(DataError, match=f"line {before + 1002}: not a readable table(.|\n)*0xe9"):
        opened(path)


def test_a_pipe_is_no_manifest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match="is not a data set"):
        opened(tmp_path / "a.csv")


def test_a_list_of_another_kind_is_told_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"path": "images/img0.png", "label": "a"}\n')
    with pytest.raises(
        DataError, match=r"is not a data set(.|\n)*CSV or TSV file with the columns path,label\[,split\]"
    ):
        opened(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="Check the spelling"):
        opened(tmp_path / "b.jsonl")


@pytest.mark.parametrize("name", ["list.csv", "deeper/list.tsv"])
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for label in ("a, b", '"quoted"', "\u00e9t\u00e9"):
        write_images(folder / "train" / label, 3)
    write_images(folder / "test" / "a, b", 2)
    source = opened(folder)
    kept = {"train": np.array([0, 1, 3, 8]), "test": np.array([1])}
    assert room.write_manifest(tmp_path / name, source, kept) == 5
    again = opened(tmp_path / name)
    assert counts(again) == {"train": [2, 1, 1], "test": [0, 1, 0]}
    assert again.classes == source.classes
    before = [(folder / source.splits["train"].names[i]).read_bytes() for i in kept["train"]]
    read = [record.read_bytes() for record in again.splits["train"].read(np.arange(4)) if isinstance(record, Path)]
    assert read == before


def test_a_manifest_has_a_known_ending_and_names_files(tmp_path: Path) -> None:
    source = opened(write_images(tmp_path / "set" / "a", 2)[0].parents[1])
    with pytest.raises(DataError, match=r"ends in \.csv or \.tsv"):
        room.write_manifest(tmp_path / "list.txt", source, {"train": np.array([0])})
    with pytest.raises(DataError, match="not files"):
        room.check_nameable(tmp_path / "list.csv", open_source(DataConfig(spec="digits")))
