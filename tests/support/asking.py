"""A plain HTTP client in a thread, over TCP or a UNIX socket, beside the loop that serves."""

import asyncio
import http.client
import json
import socket
from dataclasses import dataclass


@dataclass
class Answer:
    """What came back."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self):
        """The body as text."""
        return self.body.decode()

    def json(self):
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """Asks `address`: host:port, or the path of a UNIX socket."""

    def __init__(self, address):
        self.address = str(address)

    async def request(self, method, url, body=None, headers=None):
        """One request on a connection of its own."""
        return await asyncio.to_thread(self._ask, method, url, body, headers or {})

    async def get(self, url, **more):
        """GET."""
        return await self.request("GET", url, **more)

    def _ask(self, method, url, body, headers):
        made = http.client.HTTPConnection("localhost" if "/" in self.address else self.address)
        made.timeout = 10
        if "/" in self.address:
            made.sock = socket.socket(socket.AF_UNIX)
            made.sock.settimeout(10)
            made.sock.connect(self.address)
        try:
            made.request(method, url, body, headers)
            got = made.getresponse()
            return Answer(got.status, got.reason, got.headers, got.read())
        finally:
            made.close()
