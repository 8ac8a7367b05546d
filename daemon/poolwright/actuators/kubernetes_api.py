"""The little of the Kubernetes API that scaling needs: GET, PUT and LIST of JSON, over TLS.

The token and the CA are read from their files again for each request: the kubelet replaces them
while we run (a projected token lives for an hour). The token goes to `https` only; without TLS one
can reach nothing but a `kubectl proxy` on loopback, which has credentials of its own.
"""

import ipaddress
import json
import os
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.wire.http import Ask, Head, Url, exchange, words

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_MOST_BYTES = 8 << 20  # of one answer; an object is at most 1.5 MiB (etcd)
_MOST_TOKEN = 64 << 10
_PAGE = 200
_MOST_PAGES = 50

Object = dict[str, Any]


class ApiFault(PlantFault):
    """The API server refused, with this HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        """Keep what tells one refusal from another."""
        super().__init__(message)
        self.status = status


def server_url(server: str | None) -> Url:
    """Where the API server is: as told, else as every pod is told. Raises PolicyError."""
    if server is None:
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise PolicyError(
                "kubernetes: not in a pod (no KUBERNETES_SERVICE_HOST): give `server`, such as "
                "https://10.0.0.1:6443"
            )
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    url = Url.parse(server, secure=True)
    if url.target != "/":
        raise PolicyError(f"server: {server!r} has a path; give https://host:port")
    if not url.secure and not _is_loopback(url.host):
        raise PolicyError(
            f"server: {server!r}: without TLS only a `kubectl proxy` on loopback is spoken to"
        )
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Api:
    """An API server at `url`: the token in one file, the CA that it is trusted by in another."""

    def __init__(self, url: Url, token: str, ca: str) -> None:
        """Nothing is read or opened yet."""
        self.name = url.text
        self._url = url
        self._token = token
        self._ca = ca
        self._trust: tuple[tuple[int, int, int], ssl.SSLContext] | None = None

    async def get(self, path: str, within_s: float) -> Object:
        """An object. Raises ApiFault, PlantFault."""
        return await self._call("GET", path, b"", within_s)

    async def put(self, path: str, body: Object, within_s: float) -> Object:
        """Replace an object; what it is now. Raises ApiFault (409: it has changed), PlantFault."""
        return await self._call("PUT", path, json.dumps(body).encode(), within_s)

    async def items(self, path: str, within_s: float) -> list[Object]:
        """A whole list, page by page; begun anew once when it changes too fast (410)."""
        try:
            return await self._pages(path, within_s)
        except ApiFault as fault:
            if fault.status != 410:
                raise
        return await self._pages(path, within_s)

    async def _pages(self, path: str, within_s: float) -> list[Object]:
        found: list[Object] = []
        more = ""
        for _ in range(_MOST_PAGES):
            page = await self.get(f"{path}?limit={_PAGE}{more}", within_s)
            items, meta = page.get("items"), page.get("metadata")
            if not isinstance(items, list) or not isinstance(meta, dict):
                raise PlantFault(f"{self.name}{path}: is no list")
            found += [item for item in items if isinstance(item, dict)]
            if not meta.get("continue"):
                return found
            more = f"&continue={quote(str(meta['continue']), safe='')}"
        raise PlantFault(f"{self.name}{path}: a list of over {_MOST_PAGES} pages")

    async def _call(self, method: str, path: str, body: bytes, within_s: float) -> Object:
        headers = [("Accept", "application/json")]
        if self._url.secure:
            headers.append(("Authorization", f"Bearer {self._read_token()}"))
        if body:
            headers.append(("Content-Type", "application/json"))
        tls = self._context() if self._url.secure else None
        ask = Ask(method=method, headers=tuple(headers), body=body, tls=tls)
        name = f"{self.name.rstrip('/')}{path.partition('?')[0]}"
        url = replace(self._url, target=path, text=name)
        page = bytearray()

        def judge(head: Head) -> None:
            head.unmoved(url)

        head = await exchange(
            url, ask, judge, page.extend, timeout_s=within_s, most_bytes=_MOST_BYTES
        )
        return _object(name, head.status, page)

    def _read_token(self) -> str:
        try:
            with Path(self._token).open(encoding="ascii") as file:
                token = file.read(_MOST_TOKEN).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PlantFault(f"token {self._token}: {error}") from error
        if not token or any(not "!" <= letter <= "~" for letter in token):
            raise PlantFault(f"token {self._token}: holds no token")  # and it is not shown
        return token

    def _context(self) -> ssl.SSLContext:
        """Trust of the CA as the file has it now."""
        try:
            status = Path(self._ca).stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if self._trust is None or self._trust[0] != stamp:
                self._trust = stamp, ssl.create_default_context(cafile=self._ca)
        except OSError as error:  # ssl.SSLError is one
            raise PlantFault(f"ca {self._ca}: {error.strerror or error}") from error
        return self._trust[1]


def _object(name: str, status: int, page: bytearray) -> Object:
    """What was answered. Raises ApiFault with the server's own words, PlantFault for no JSON."""
    try:
        found = json.loads(page)
    except (ValueError, RecursionError):
        found = None
    if status not in (200, 201):
        said = found.get("message") if isinstance(found, dict) else None
        text = words(str(said).encode()) if said else "no reason given"
        raise ApiFault(f"{name}: {status}: {text}", status)
    if not isinstance(found, dict):
        raise PlantFault(f"{name}: answered no JSON object")
    return found
