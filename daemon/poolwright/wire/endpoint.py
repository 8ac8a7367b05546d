"""An HTTP API that speaks JSON, with its certificate checked and a secret from a file."""

import ipaddress
import os
import ssl
from dataclasses import dataclass, field, replace
from typing import Any

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.units import Bytes, PathText
from poolwright.wire.http import Ask, Head, Url, exchange, words
from poolwright.wire.pointer import decode
from poolwright.wire.secret import read_secret

_SECRET = "{secret}"  # noqa: S105  a placeholder


class Denied(PlantFault):
    """The endpoint answers 401 or 403, or the secret may not be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to be let in."""

    auth_file: PathText | None = field(
        default=None,
        metadata={"doc": "file with a secret; read at each request, refused when all may read it"},
    )
    auth_header: str = field(
        default="Authorization: Bearer {secret}",
        metadata={"doc": "the header that carries the secret, such as `X-Api-Key: {secret}`"},
    )
    ca_file: PathText | None = field(
        default=None,
        metadata={"doc": "PEM of who signs the server's certificate; default: the system's"},
    )
    max_bytes: Bytes = field(
        default=1024 * 1024, metadata={"doc": "longest answer, after decompression", "min": 1}
    )

    def check(self, url: Url) -> None:
        """Raises PolicyError for what cannot be sent, or not to `url`."""
        name, colon, rest = self.auth_header.partition(": ")
        printable = all(" " <= letter <= "~" for letter in self.auth_header)
        token = name.replace("-", "").replace("_", "")
        if not (colon and token.isalnum() and printable and rest.count(_SECRET) == 1):
            raise PolicyError(f"auth_header: {self.auth_header!r} is not `Name: ... {_SECRET} ...`")
        if self.auth_file is not None and not url.secure and not _is_local(url.host):
            raise PolicyError(f"auth_file: a secret does not go to {url.host} in the clear: https")
        if self.ca_file is not None and not url.secure:
            raise PolicyError(f"ca_file: {url.text} is not https")


class Endpoint:
    """Requests to one server. A connection each: a kept one could hold a worker of the service."""

    def __init__(self, url: Url, access: Access) -> None:
        """Raises PolicyError."""
        access.check(url)
        self._url = url
        self._access = access
        self._tls: tuple[object, ssl.SSLContext] | None = None

    async def json(self, timeout_s: float, target: str | None = None) -> Any:
        """GET `target` (default: the URL's own) and decode what comes.

        Raises PlantFault naming the url; Denied when the server does not let us.
        """
        _, said = await self.ask("GET", timeout_s, target=target)
        try:
            return decode(said)
        except PlantFault as fault:
            raise PlantFault(f"{self._url.text}: {fault}") from fault

    async def ask(
        self,
        method: str,
        timeout_s: float,
        *,
        target: str | None = None,
        body: bytes = b"",
        content_type: str = "",
        any_status: bool = False,
    ) -> tuple[int, bytes]:
        """One request; status and page. Without `any_status` anything but 2xx is a PlantFault."""
        headers = [("Accept", "application/json")]
        headers += [("Content-Type", content_type)] if content_type else []
        secret = None if self._access.auth_file is None else _secret(self._access.auth_file)
        if secret is not None:
            name, _, rest = self._access.auth_header.partition(": ")
            headers.append((name, rest.replace(_SECRET, secret)))
        url = self._url if target is None else replace(self._url, target=target)
        hidden = b"" if secret is None else secret.encode()
        ask = Ask(
            method=method, headers=tuple(headers), body=body, tls=self._context(), hidden=hidden
        )
        page = bytearray()
        head = await exchange(
            url,
            ask,
            lambda head: head.unmoved(url),
            page.extend,
            timeout_s=timeout_s,
            most_bytes=self._access.max_bytes,
        )
        said = bytes(page).replace(hidden, b"***") if hidden else bytes(page)
        if not any_status or head.status in {401, 403}:
            _check(url, method, head, said)
        return head.status, said

    def _context(self) -> ssl.SSLContext | None:
        """What certificates are held against; read again when the file was replaced."""
        if not self._url.secure:
            return None
        path = self._access.ca_file
        try:
            seen = os.stat(path) if path is not None else None  # noqa: PTH116
            stamp = None if seen is None else (seen.st_ino, seen.st_mtime_ns, seen.st_size)
            if self._tls is None or self._tls[0] != stamp:
                self._tls = (stamp, ssl.create_default_context(cafile=path))
        except OSError as error:  # of which SSLError is one
            why = error.strerror or "holds no certificate"
            raise PlantFault(f"{self._url.text}: ca_file {path}: {why}") from error
        return self._tls[1]


def _check(url: Url, method: str, head: Head, page: bytes) -> None:
    """Raises what an answer other than 2xx is, with its first words."""
    if 200 <= head.status < 300:
        return
    said = " ".join(words(page).split())
    told = f"{url.text}: {method} answered {head.status} {head.reason}".rstrip()
    told += f": {said}" if said else ""
    raise (Denied if head.status in {401, 403} else PlantFault)(told)


def _secret(path: str) -> str:
    try:
        return read_secret(path)
    except PlantFault as fault:
        raise Denied(str(fault)) from fault


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
