"""One HTML page of what was found, pairs side by side: no script, no request to anywhere, at most 300 small images.

Names of files and classes are strangers' texts: they are shown by `errors.shown` and escaped by the template.
Thumbnails are encoded anew, so that nothing of a file but its pixels is on the page.
"""

import base64
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitrail import fsio
from vitrail.data import Source, decode_image
from vitrail.errors import ImageError, shown

MOST_IMAGES = 300
_SIDE, _PIXELS = 128, 64
"""Longest side of a thumbnail, and the one up to which pixels are kept as they are and shown as squares."""
_QUALITY = 80
MEANINGS = {
    "unreadable": "files that are damaged or no images",
    "exact copies": "images of one split with the same pixels as another one there",
    "exact leaks": "the same pixels in more than one split: accuracy measured there is too high",
    "in several classes": "the same pixels in more than one class",
    "near leaks": "images that look like one of another split: the same shot, re-saved, cropped or mirrored",
    "near duplicates": "pairs in one split that look like the same shot",
    "similar pairs": "pairs that look alike, but may well be two shots",
    "suspect labels": "images that look like another class",
    "outliers": "images unlike all others",
    "blank": "images of a single colour",
    "near constant": "images with hardly any contrast",
    "dark": "images that are almost black",
    "blurred": "images without fine detail",
    "extreme ratio": "images more than four times as long as wide, or as wide as long",
}
_SHARES = {
    "exact leaks": 30, "in several classes": 20, "exact copies": 20, "near leaks": 90, "near duplicates": 40,
    "suspect labels": 50, "outliers": 20, "odd images": 20, "similar pairs": 10,
}  # fmt: skip
"""Thumbnails of each kind; what one does not need goes to the others, in this order."""
_JUDGE = (
    " The classifier that doubts them is right for {:.0%} of the images; the lower that is, the more of these labels "
    "are right."
)
_MOST_BROKEN = 10
_PER_CARD = 4
"""Images of a group of equal ones that are shown."""
_SINGLE = ("suspect labels", "outliers", "odd images")


@dataclass(frozen=True)
class _Card:
    """What is shown together: some images, by split and path, and a line."""

    images: list[Mapping[str, Any]]
    text: str
    mark: str = ""


def write_gallery(path: Path, source: Source, exact: Mapping[str, Any], found: Mapping[str, Any]) -> int:
    """Write the page.

    Args:
        path: an HTML file; one that is there is replaced.
        source: the data set, whose images are read again.
        exact: what `data.check` found in it.
        found: what `examine` found.
    Returns:
        Its size in bytes.
    Raises:
        SaveError: it cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    cards = {kind: content for kind, content in _cards(source, exact, found).items() if content}
    counts = _shares({kind: [len(card.images) for card in content] for kind, content in cards.items()})
    chosen = {kind: content[: counts[kind]] for kind, content in cards.items()}
    pictures = _thumbnails(source, [image for content in chosen.values() for card in content for image in card.images])
    sections: list[dict[str, Any]] = [
        {
            "id": f"kind-{number}",
            "kind": kind,
            "meaning": _sentence(MEANINGS.get(kind, "images with something unusual about them, as measured"))
            + (_JUDGE.format(found["label_accuracy"]) if kind == "suspect labels" else ""),
            "left_out": len(cards[kind]) - len(content),
            "is_single": kind in _SINGLE,
            "cards": [
                {
                    "text": shown(card.text),
                    "mark": shown(card.mark),
                    "images": [_shown_image(image, pictures) for image in card.images],
                }
                for card in content
            ],
        }
        for number, (kind, content) in enumerate(chosen.items())
    ]
    broken = [f"{split}: {e['path']}: {e['error']}" for split, s in exact["splits"].items() for e in s["errors"]]
    if len(broken) > _MOST_BROKEN:
        broken[_MOST_BROKEN:] = [f"... {_MOST_BROKEN} of {len(broken)} unreadable files"]
    template = (resources.files("vitrail.doctor") / "gallery.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(template).render(
        title=shown(Path(source.name).name if os.sep in source.name else source.name),  # no names of folders above it
        total=sum(map(len, source.splits.values())),
        kinds=_rows(found["kinds"], sections),
        lines=[shown(line, 400) for line in [*exact["notes"], *exact["warnings"], *broken]],
        sections=sections,
    )
    encoded = page.encode("utf-8", errors="backslashreplace")
    fsio.write_bytes(path, encoded)
    return len(encoded)


def _rows(kinds: Mapping[str, int], sections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table of kinds: how many were found, how many are shown, and where."""
    by_kind = {section["kind"]: section for section in sections}
    rows: list[dict[str, Any]] = []
    for kind, count in kinds.items():
        section = by_kind.get("odd images" if kind in _ODD else kind) if count else None
        row = {"kind": kind, "count": count, "meaning": MEANINGS[kind], "link": "", "shown": ""}
        if section:
            row["link"], row["shown"] = section["id"], "" if kind in _ODD else len(section["cards"])
        if count or kind not in _ODD:
            rows.append(row)
    return rows


_ODD = ("blank", "near constant", "dark", "blurred", "extreme ratio")


def _cards(source: Source, exact: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, list[_Card]]:
    places = {f"{s}:{path}": (s, i) for s, split in source.splits.items() for i, path in enumerate(split.names)}

    def image(name: str) -> Mapping[str, Any]:
        split, position = places[name]
        content = source.splits[split]
        label = source.classes[content.labels[position]]
        return {"split": split, "path": content.names[position], "class": label, "position": position}

    def equal(names: Sequence[str]) -> _Card:
        images = [image(name) for name in names]
        more = f" ({len(names)} in all)" if len(names) > _PER_CARD else ""
        return _Card(images[:_PER_CARD], f"equal pixels{more}", _differ(images))

    copies = [[f"{split}:{path}" for path in g] for split, s in exact["splits"].items() for g in s["duplicates"]]
    known = [*exact["leaks"], *exact["conflicts"]]
    return {
        "exact leaks": [equal(names) for names in exact["leaks"]],
        "in several classes": [equal(names) for names in exact["conflicts"] if names not in exact["leaks"]],
        "exact copies": [equal(names) for names in copies if names not in known],
        "near leaks": list(_pairs(found["leaks"], once=True)),
        "near duplicates": list(_pairs(found["pairs"])),
        "suspect labels": [
            _Card(
                [one["image"]],
                f"{one['p_suggested']:.0%} against {one['p_class']:.0%}",
                f"looks like {shown(one['suggested'], 60)}",
            )
            for one in found["suspects"]
        ],
        "outliers": [
            _Card([one["image"]], f"{one['value']:.1f} deviations beyond the median") for one in found["outliers"]
        ],
        "odd images": [_Card([one["image"]], "", one["kind"]) for one in found["odd"]],
        "similar pairs": list(_pairs(found["similar"])),
    }


def _pairs(pairs: Sequence[Mapping[str, Any]], *, once: bool = False) -> Iterator[_Card]:
    """Cards of pairs; `once`: of each second image, the most alike alone."""
    seen: set[tuple[str, str]] = set()
    for pair in pairs:
        images = [pair["second"], pair["first"]] if once else [pair["first"], pair["second"]]
        key = (images[0]["split"], images[0]["path"])
        if not once or key not in seen:
            yield _Card(images, f"alike {pair['score']:.2f}", _differ(images))
        seen.add(key)


def _differ(images: Sequence[Mapping[str, Any]]) -> str:
    return "different classes" if len({image["class"] for image in images}) > 1 else ""


def _shares(images: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """How many cards of each kind are shown: those of its share, then of what others leave."""
    counts, left = dict.fromkeys(images, 0), MOST_IMAGES
    for share in (_SHARES, dict.fromkeys(_SHARES, MOST_IMAGES)):
        for kind, sizes in images.items():
            room = min(left, share[kind] - (sum(sizes[: counts[kind]]) if share is _SHARES else 0))
            while counts[kind] < len(sizes) and sizes[counts[kind]] <= room:
                room, left = room - sizes[counts[kind]], left - sizes[counts[kind]]
                counts[kind] += 1
    return counts


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _shown_image(
    image: Mapping[str, Any], pictures: Mapping[tuple[str, int], tuple[str, bool]]
) -> dict[str, str | bool]:
    data, is_pixels = pictures.get((image["split"], image["position"]), ("", False))
    name = f"{image['split']}: {shown(image['path'])}"
    return {"class_name": shown(image["class"]), "name": name, "data": data, "is_pixels": is_pixels}


def _thumbnails(source: Source, images: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], tuple[str, bool]]:
    """A data URL of each image, by split and position, and whether it has the pixels of the file."""
    found: dict[tuple[str, int], tuple[str, bool]] = {}
    for name in source.splits:
        wanted = np.unique(np.array([i["position"] for i in images if i["split"] == name], np.int64))
        for position, record in zip(wanted.tolist(), source.splits[name].read(wanted), strict=True):
            try:
                pixels = record if isinstance(record, np.ndarray) else decode_image(record)
            except ImageError:  # changed since it was looked at
                continue
            found[name, position] = thumbnail(pixels)
    return found


def thumbnail(pixels: np.ndarray) -> tuple[str, bool]:
    """An image [H, W] or [H, W, 3] as a data URL; True: every pixel is there, in a PNG file."""
    image, buffer = Image.fromarray(pixels).convert("RGB"), io.BytesIO()
    is_small = max(image.size) <= _PIXELS
    image.thumbnail((_SIDE, _SIDE))
    if is_small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=_QUALITY)
    kind = "png" if is_small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", is_small
