r"""Answers HAProxy's agent-check: one line, such as `maxconn:8 50%`, to whoever connects.

An empty line changes nothing ("No status change"), and it is what is said when there is nothing to
say. Never said are up, down, ready, drain and maint: whether a server lives is not ours to tell. So
HAProxy keeps the last level when nobody answers, and the server stays as it was.
"""

import asyncio
import contextlib

from poolwright.core.errors import PlantFault

_MOST_AT_ONCE = 64  # connections; HAProxy has one a server and process
_LINGER_S = 1.0
_MOST_SENT = 4096  # bytes of `agent-send` that are read, so that closing does not reset


class Agent:
    """Listens at `place` (host:port) from `open` to `close`."""

    def __init__(self, place: str) -> None:
        """Nothing is bound yet."""
        self._place = place
        self._words = ""
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.asked = 0  # how often HAProxy has asked since `say`

    @property
    def port(self) -> int:
        """The port really bound."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def open(self) -> None:
        """Bind, once. Raises PlantFault naming the address."""
        if self._server is not None:
            return
        host, _, port = self._place.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._answer, host.strip("[]"), int(port), limit=_MOST_SENT
            )
        except OSError as error:
            raise PlantFault(f"agent {self._place}: {error.strerror or error}") from error

    async def close(self) -> None:
        """Let go of the address. May be called twice."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for link in self._links:
                link.cancel()
            await asyncio.gather(*self._links, return_exceptions=True)

    def say(self, words: str) -> None:
        """Answer with `words` from now on."""
        self._words = words
        self.asked = 0

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        if len(self._links) >= _MOST_AT_ONCE:
            writer.transport.abort()
            return
        self._links.add(link)
        try:
            self.asked += 1
            writer.write(f"{self._words}\n".encode())
            writer.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_S):
                    while await reader.read(_MOST_SENT):
                        pass  # bytes left unread would turn the close into a reset
        except (OSError, asyncio.CancelledError):
            pass  # it hung up, or we close: there is nobody left to answer
        finally:
            self._links.discard(link)
            writer.transport.abort()
