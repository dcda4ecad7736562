"""Links in the documents lead somewhere: files are there, and so are the headings that a link names."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for folder in ("docs", "bench", "examples") for path in (ROOT / folder).rglob("*.md"))]
)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def _anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a document in links."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


def broken(document: Path, root: Path) -> list[str]:
    """Relative links of a document that lead nowhere, or out of the project."""
    found: list[str] = []
    for pair in LINK.findall(CODE.sub("", document.read_text(encoding="utf-8"))):
        target = pair[0] or pair[1]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if (
            not path.exists()
            or not path.is_relative_to(root)
            or name.startswith("/")
            or (anchor and path.suffix == ".md" and anchor not in _anchors(path.read_text(encoding="utf-8")))
        ):
            found.append(target)
    return found


def test_links_lead_somewhere() -> None:
    assert len(DOCUMENTS) > 15
    assert {str(path.relative_to(ROOT)): found for path in DOCUMENTS if (found := broken(path, ROOT))} == {}


def test_what_is_broken_is_seen(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A `good` place, [here](x)!\n")
    (tmp_path / "a.md").write_text(
        "# Top\n[a](there.md) [b](there.md#a-good-place-here) [c](#top) [d](https://example.org) `[e](no)`\n"
        "```\n[f](no)\n```\n"
        '[g](gone.md) [h](there.md#nowhere) [i](#end) ![j](gone.png) <img src="gone.svg">\n'
        "[k](../out.md) [l](/etc/hosts)\n"
    )
    (tmp_path.parent / "out.md").touch()
    wrong = ["gone.md", "there.md#nowhere", "#end", "gone.png", "gone.svg", "../out.md", "/etc/hosts"]
    assert broken(tmp_path / "a.md", tmp_path) == wrong
