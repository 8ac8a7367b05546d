"""One client of the HTTP server: h11 knows the protocol, this when it is enough."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import h11

from poolwright.surface.message import REASONS, Headers, Response, Stream, text

MOST_HEAD_BYTES = 8192  # request line and headers together
HEAD_S = 5.0  # from a request's first byte, or the connection, until its last byte
IDLE_S = 30.0  # between two requests
WRITE_S = 10.0  # in which a client must have taken what waits for it
LINGER_S = 1.0  # after the last answer, so that a client that still sends can read it


class Site(Protocol):
    """What a connection needs of its server."""

    most_body_bytes: int
    headers: Headers

    def admit(self, new: "Connection") -> None:
        """A connection has begun."""

    def forget(self, gone: "Connection") -> None:
        """A connection has ended."""

    def answer(
        self, head: h11.Request, body: bytes, connection: socket.socket
    ) -> Response | Awaitable[Response] | Stream:
        """The answer to a whole request; never raises."""


class Connection(asyncio.Protocol):
    """One client. A single timer runs all its life: see `_within`."""

    def __init__(self, server: Site) -> None:
        self._server = server
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._head: h11.Request | None = None  # of the request that is coming in
        self._body = bytearray()
        self._begun: bool | None = True  # part of a request is here; None: to be found out
        self._blocked = False  # the client does not take what it asked for
        self._ending = False  # the last answer is written
        self._working: asyncio.Future[Response] | None = None  # an answer that comes later
        self._leave: Callable[[], None] | None = None  # ends the stream that is being written

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is here."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods
        self._within(HEAD_S, self._late)
        self._server.admit(self)

    def data_received(self, data: bytes) -> None:
        """Part of a request, or several."""
        if self._leave is not None:
            self.abort()  # there is nothing to say to a stream
        elif not self._ending:
            self._http.receive_data(data)
            self._advance()

    def eof_received(self) -> None:
        """The client will send no more: write what is left, then hang up."""
        if not self._ending:
            self._http.receive_data(b"")
            self._advance()
        self.close()

    def pause_writing(self) -> None:
        """Take no further request until the client has read the answers to the last ones."""
        if self._leave is not None:
            self.abort()  # what is live is of no use late, and must not pile up
            return
        self._blocked = True
        self._transport.pause_reading()
        if not self._transport.is_closing():
            self._within(WRITE_S, self.abort)

    def resume_writing(self) -> None:
        """The client has read what there was: go on."""
        self._blocked = False
        if not (self._transport.is_closing() or self._working):
            self._transport.resume_reading()
            if self._ending:
                self._within(LINGER_S, self._lingered)
            else:
                self._begun = None
                self._advance()

    def connection_lost(self, _error: Exception | None) -> None:
        """The end: nothing is left to be written."""
        if self._timer is not None:
            self._timer.cancel()
        self._ending = True
        if self._working is not None:
            self._working.cancel()
        if self._leave is not None:
            self._leave()
        self._server.forget(self)

    def close(self) -> None:
        """Hang up once everything written is taken, or after WRITE_S."""
        self._ending = True
        self._transport.close()
        self._within(WRITE_S, self.abort)

    def abort(self) -> None:
        """Hang up now."""
        self._ending = True
        self._transport.abort()

    def _within(self, seconds: float, then: Callable[[], None]) -> None:
        """Do `then` after `seconds` unless something is set after this."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _late(self) -> None:
        if self._head is None and not self._http.trailing_data[0]:
            self.abort()
        else:
            self._refuse(408, f"the request was not whole after {HEAD_S:g} s")

    def _advance(self) -> None:
        """Answer every request that is whole."""
        try:
            while not (self._blocked or self._ending or self._working):
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._take_head(event)
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > self._server.most_body_bytes:
                        self._refuse(413, self._too_long())
                elif isinstance(event, h11.EndOfMessage):
                    self._answer()
                else:  # NEED_DATA, or the client hung up between two requests
                    self._wait()
                    return
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, str(error))

    def _wait(self) -> None:
        """For the rest of a request, or for the next one."""
        begun = self._head is not None or bool(self._http.trailing_data[0])
        if begun != self._begun:
            self._begun = begun
            self._within(*((HEAD_S, self._late) if begun else (IDLE_S, self.abort)))

    def _take_head(self, head: h11.Request) -> None:
        # h11 looks at the length of a head only while it is incomplete
        size = len(head.target) + sum(len(n) + len(v) + 4 for n, v in head.headers)
        if size > MOST_HEAD_BYTES:
            self._refuse(431, f"the head is longer than {MOST_HEAD_BYTES} bytes")
            return
        self._head = head
        length = next((int(v) for n, v in head.headers if n == b"content-length"), 0)
        if length > self._server.most_body_bytes:
            self._refuse(413, self._too_long())
        elif self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self._transport.write(self._http.send(go_on) or b"")

    def _answer(self) -> None:
        head, body = self._head, bytes(self._body)
        assert head is not None, "h11 ends no message that it did not begin"
        self._head = None
        self._body.clear()
        with_body = head.method != b"HEAD"
        connection = self._transport.get_extra_info("socket")
        answer = self._server.answer(head, body, connection)
        if isinstance(answer, Response):
            self._finish(answer, with_body)
        elif isinstance(answer, Stream):
            self._begin(answer, with_body)
        else:
            self._transport.pause_reading()  # what a client sends meanwhile stays in the kernel
            self._still()
            self._working = asyncio.ensure_future(answer)
            self._working.add_done_callback(lambda done: self._worked(done, with_body))

    def _worked(self, done: asyncio.Future[Response], with_body: bool) -> None:
        """The answer that was waited for is here."""
        self._working = None
        if not (done.cancelled() or self._transport.is_closing()):
            if not self._blocked:
                self._transport.resume_reading()
            self._finish(done.result(), with_body)
            self._advance()

    def _finish(self, response: Response, with_body: bool) -> None:
        self._write(response, with_body)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._begun = None
        else:
            self._end()

    def _begin(self, stream: Stream, with_body: bool) -> None:
        """Write the head of a stream; its pieces follow as they come."""
        self._transport.write(self._start(200, stream.content_type, stream.headers))
        if with_body:
            self._still()
            self._leave = stream.subscribe(self._piece)
        else:
            self._transport.write(self._http.send(h11.EndOfMessage()) or b"")
            self._end()

    def _piece(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._http.send(h11.Data(data=data)) or b"")

    def _still(self) -> None:
        """No time limit of the connection's own, until the next is set."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, why: str) -> None:
        """Answer what is no request, and hang up."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            with_body = self._head is None or self._head.method != b"HEAD"
            self._write(text(status, why, ("Connection", "close")), with_body)
        self._end()

    def _write(self, response: Response, with_body: bool) -> None:
        headers = response.headers
        if response.status != 304:  # it has none, and its length would be that of the file
            headers = (("Content-Length", str(len(response.body))), *headers)
        pieces = [self._start(response.status, response.content_type, headers)]
        if with_body:
            pieces.append(self._http.send(h11.Data(data=response.body)) or b"")
        pieces.append(self._http.send(h11.EndOfMessage()) or b"")
        self._transport.write(b"".join(pieces))

    def _start(self, status: int, content_type: str, own: Headers) -> bytes:
        """The head of an answer. A header of its own goes before the server's of that name."""
        named = {name for name, _ in own}
        headers = [
            ("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())),
            ("Content-Type", content_type),
            *(pair for pair in self._server.headers if pair[0] not in named),
            *own,
        ]
        reason = REASONS.get(status, "").encode()
        start = h11.Response(status_code=status, headers=headers, reason=reason)
        return self._http.send(start) or b""

    def _end(self) -> None:
        """Say that nothing more comes, and let the client hang up.

        Hanging up at once, with something of the client's unread, would make its kernel throw away
        an answer that it has not read yet (RFC 9112, 9.6).
        """
        self._ending = True
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._within(LINGER_S, self._lingered)

    def _lingered(self) -> None:
        if self._transport.get_write_buffer_size():
            self._within(WRITE_S, self.abort)
        else:
            self.abort()

    def _too_long(self) -> str:
        most = self._server.most_body_bytes
        return f"a body of at most {most} bytes is taken here" if most else "no body is taken here"
