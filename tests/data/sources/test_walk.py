"""Walking over folders: hidden entries, links, circles, pipes."""

import os
from pathlib import Path

from tests.support.folders import write_images
from vitrail.data.sources.walk import files_below, is_image


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_below(folder)]


def test_links_to_folders_are_followed_once_and_those_to_nowhere_are_listed(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", 1)
    folder = tmp_path / "set"
    write_images(folder / "a", 1)
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    assert names(folder) == ["gone", "gone.png", "a/img0.png", "b/img0.png"]
    assert not is_image(folder / "gone")


def test_hidden_entries_and_what_systems_leave_behind(tmp_path: Path) -> None:
    write_images(tmp_path / "__MACOSX", 1)
    write_images(tmp_path / ".cache", 1)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._a.png"):
        (tmp_path / name).write_text("x")
    assert names(tmp_path) == []


def test_a_named_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert not is_image(tmp_path / "pipe")
