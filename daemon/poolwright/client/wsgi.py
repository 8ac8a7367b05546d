"""WSGI middleware: `application = WsgiMeter(application, meter)`.

A request ends when its body has been iterated and closed. A list or tuple is whole when the
application returns, and a file is the server's to send; both are handed on as they are, so that a
server's shortcuts (Content-Length, sendfile) go on working.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from poolwright.client.meter import Meter, Timing

_Environ = dict[str, Any]
_StartResponse = Callable[..., Callable[[bytes], object]]
_App = Callable[[_Environ, _StartResponse], Iterable[bytes]]


class WsgiMeter:
    """Counts and times the requests of a WSGI application."""

    def __init__(self, application: _App, meter: Meter) -> None:
        self._application = application
        self._meter = meter

    def __call__(self, environ: _Environ, start_response: _StartResponse) -> Iterable[bytes]:
        """Pass on; an exception of the application is an error, and passed on too."""
        header = environ.get("HTTP_X_REQUEST_START")
        timing = Timing(self._meter, None if header is None else header.encode("latin-1", "ignore"))

        def started(
            status: str, headers: list[tuple[str, str]], *exc_info: Any
        ) -> Callable[[bytes], object]:
            code = status[:3]
            timing.status = int(code) if code.isdigit() else 500
            for name, said in headers:
                if name.lower() == "content-type" and said.startswith("text/event-stream"):
                    timing.is_stream()
            return start_response(status, headers, *exc_info)

        try:
            body = self._application(environ, started)
        except Exception:
            timing.end(failed=True)
            raise
        except BaseException:
            timing.lose()
            raise
        wrapper = environ.get("wsgi.file_wrapper")
        if type(body) in (list, tuple) or (isinstance(wrapper, type) and isinstance(body, wrapper)):
            timing.end()
            return body
        return _Body(body, timing)


class _Body:
    """The body of a response, until it is closed."""

    __slots__ = ("_body", "_parts", "_timing")

    def __init__(self, body: Iterable[bytes], timing: Timing) -> None:
        self._body = body
        self._parts: Iterator[bytes] | None = None
        self._timing = timing

    def __iter__(self) -> "_Body":
        return self

    def __next__(self) -> bytes:
        """The next part. StopIteration ends the request, also where nobody closes."""
        try:
            if self._parts is None:
                self._parts = iter(self._body)
            return next(self._parts)
        except StopIteration:
            self._timing.end()
            raise
        except Exception:
            self._timing.end(failed=True)
            raise

    def close(self) -> None:
        """The server is done, or the client has gone in the middle."""
        close = getattr(self._body, "close", None)
        try:
            if close is not None:
                close()
        except Exception:
            self._timing.end(failed=True)
            raise
        finally:
            self._timing.end()
