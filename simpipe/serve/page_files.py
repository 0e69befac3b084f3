"""The files of the web page, held in memory under the paths that a browser asks for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, no script or style in the markup; blob: is a picture that somebody dropped on the page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class PageFile:
    """A file of the page: its content, its MIME type, and an ETag (quoted, as the header wants it)."""

    content: bytes
    type: str
    etag: str


@cache
def page_files() -> MappingProxyType[str, PageFile]:
    """All files by path: `/` is `index.html`, the others lie beside it (`/app.js`, `/components.css`)."""
    found = {f"/{each.name}": each for each in resources.files("simpipe.serve").joinpath("page").iterdir() if each.is_file()}
    found["/components.css"] = resources.files("simpipe.visualization").joinpath("components.css")
    files = {}
    for path, each in sorted(found.items()):
        kind = _TYPES.get(path[path.rfind(".") :])
        if kind is not None:
            content = each.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            files["/" if path == "/index.html" else path] = PageFile(content, kind, etag)
    return MappingProxyType(files)
