"""Who may ask over TCP: not a page of another site, nor one that calls itself by our address.

A browser asks whatever a page tells it to, for a user who can reach what the page's author cannot.
Two ways lead here: a request across sites, which the browser marks (Fetch Metadata, Origin), and
a name of the author's that now leads to our address (DNS rebinding), which the Host header shows.
So a name is taken only when it is ours. Prometheus sends the target as it is configured: an address
or `localhost`, or a name that stands in `allowed_hosts`. A client without a Host header speaks
HTTP/1.0 and is no browser.
"""

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from poolwright.surface.message import Request, Response
from poolwright.surface.problem import problem

_OWN_SITES = frozenset({"same-origin", "none"})  # none: the user typed it


@dataclass(frozen=True, slots=True)
class Gate:
    """Refuses with status 403 what another site's page has asked for."""

    names: frozenset[str]  # in lower case
    addresses: bool  # any numeric address is ours; else only loopback's

    def __call__(self, request: Request) -> Response | None:
        """The refusal; None to what may go on."""
        headers = request.headers
        host = headers.get("host")
        if host is not None and not self._is_ours(host):
            return problem(
                403, f"Host {host!r} is not a name of this daemon; if it is, see `allowed_hosts`"
            )
        site = headers.get("sec-fetch-site", "none")
        if site not in _OWN_SITES and not _opens_page(request):
            return problem(403, f"a {site} request is not answered")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != (host or "").lower():
            return problem(403, f"a request of {origin!r} is not answered")
        return None

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host).lower()
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return self.addresses or address.is_loopback


def gate(host: str, bound: str, allowed: Iterable[str]) -> Gate:
    """The gate of a server at `bound` (an address), which the configuration calls `host`."""
    own = {"localhost", host.lower(), *(name.lower() for name in allowed)}
    public = not ipaddress.ip_address(bound).is_loopback
    if public:
        own.add(socket.gethostname().lower())
    return Gate(frozenset(own), public)


def _opens_page(request: Request) -> bool:
    """Whether somebody follows a link to the dashboard."""
    headers = request.headers
    top = (
        headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )
    return request.path == "/" and top


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else host
