"""The page's files, held in memory, under names with a hash: a new version has new names, so browsers may keep them."""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "permissions-policy": "camera=(self)",
}
"""Of the page; those that every answer has are in `guard.py`."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_REFERENCE = re.compile(rb'"(/?static/)([A-Za-z0-9_.-]+)"')
FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class PageFile:
    """One file."""

    content: bytes
    content_type: str


def page_files() -> dict[str, PageFile]:
    """Every file of the page: index.html under "", the others as "app-1a2b3c4d.js".

    What index.html names as "static/NAME" is replaced by the name with the hash.
    """
    found = {
        entry.name: entry.read_bytes()
        for entry in resources.files("vitrail.serving").joinpath("page").iterdir()
        if entry.is_file() and _suffix(entry.name) in _TYPES
    }
    names = {name: _hashed(name, content) for name, content in found.items()}

    def named(match: re.Match[bytes]) -> bytes:
        name = match[2].decode()
        return b'"%s%s"' % (match[1], names.get(name, name).encode())

    index = _REFERENCE.sub(named, found.pop("index.html"))
    files = {names[name]: PageFile(content, _TYPES[_suffix(name)]) for name, content in found.items()}
    return {"": PageFile(index, _TYPES[".html"]), **files}


def _suffix(name: str) -> str:
    return f".{name.rpartition('.')[2]}"


def _hashed(name: str, content: bytes) -> str:
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}.{suffix}"
