"""The files of the dashboard, as they are in the package: read once, compressed once."""

import gzip
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from poolwright.surface.message import Headers, Request, Response, text

FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
_COMPRESSED = frozenset({".png", ".woff2"})  # already
_HASHED = re.compile(r"[.-][0-9a-f]{8,64}\.[a-z0-9]+$")  # uplot.1f2e3d4c.js
_A_YEAR = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    body: bytes
    packed: bytes | None  # None: not worth it
    digest: str
    content_type: str
    cache: str


class StaticFiles:
    """Serves one folder: `index.html` at `/`, and all of it at `/assets/{file}`.

    A file is read when it is first asked for. Only names that were in the folder at the start can
    be asked for, so no path leads out of it.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        """Look at what there is."""
        self._paths = {path.name: path for path in folder.glob("*") if path.suffix in _TYPES}
        self._read: dict[str, _File] = {}

    def index(self, request: Request) -> Response:
        """The page."""
        return self._answer("index.html", request)

    def asset(self, request: Request) -> Response:
        """A file that the page loads."""
        return self._answer(request.named["file"], request)

    def _answer(self, name: str, request: Request) -> Response:
        if name not in self._paths:
            return text(404, "there is no such file")
        if name not in self._read:
            self._read[name] = _read(self._paths[name])
        file = self._read[name]
        packs = file.packed is not None and _takes_gzip(request.headers.get("accept-encoding", ""))
        etag = f'"{file.digest}{"-gzip" if packs else ""}"'
        headers: Headers = (("ETag", etag), ("Cache-Control", file.cache))
        if file.packed is not None:
            headers = (*headers, ("Vary", "Accept-Encoding"))
        known = request.headers.get("if-none-match", "")
        if etag in (tag.strip() for tag in known.split(",")):
            return Response(status=304, body=b"", content_type=file.content_type, headers=headers)
        body = file.body
        if packs:
            body, headers = file.packed or b"", (*headers, ("Content-Encoding", "gzip"))
        return Response(status=200, body=body, content_type=file.content_type, headers=headers)


def _read(path: Path) -> _File:
    body = path.read_bytes()
    packed = None if path.suffix in _COMPRESSED else gzip.compress(body, 9, mtime=0)
    return _File(
        body=body,
        packed=packed if packed is not None and len(packed) < len(body) else None,
        digest=hashlib.sha256(body).hexdigest()[:32],
        content_type=_TYPES[path.suffix],
        cache=_A_YEAR if _HASHED.search(path.name) else "no-cache",
    )


def _takes_gzip(accepted: str) -> bool:
    for coding in accepted.split(","):
        name, _, quality = coding.partition(";")
        if name.strip().lower() == "gzip":
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
