"""One GET over FastCGI (specification 1.0), on a connection of its own.

Enough to ask php-fpm for its status page without a web server in between: one request, its answer
bounded in time and size. No library does it lightly; the packages that there are wrap an
application, or a whole client with multiplexing and uploads.
"""

import asyncio
import struct
from collections.abc import Mapping

from poolwright.core.errors import PlantFault
from poolwright.wire.address import Address

_HEAD = struct.Struct("!BBHHBx")  # version, type, request id, length, padding
_BEGIN, _END, _PARAMS, _STDIN, _STDOUT, _STDERR = 1, 3, 4, 5, 6, 7
_RESPONDER = struct.pack("!HB5x", 1, 0)  # role, flags: the server closes the connection
_ID = 1
_MOST_SAID = 200
_LEAST_BYTES = 256  # what a record counts for: many small ones cost time, and may be empty


async def fetch(
    address: Address, path: str, query: str, *, within_s: float, most_bytes: int
) -> bytes:
    """The body that a FastCGI server answers for `path`. Raises PlantFault saying what is wrong,
    without naming the address: the status is not 200, the answer is late, cut or too long.
    """
    params = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": path,
        "SCRIPT_FILENAME": path,
        "REQUEST_URI": f"{path}?{query}",
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "GATEWAY_INTERFACE": "CGI/1.1",
    }
    try:
        async with asyncio.timeout(within_s):
            if isinstance(address, str):
                reader, writer = await asyncio.open_unix_connection(address)
            else:
                reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(
                    _record(_BEGIN, _RESPONDER)
                    + _record(_PARAMS, _pairs(params))
                    + _record(_PARAMS, b"")
                    + _record(_STDIN, b"")
                )
                return _body(await _answer(reader, most_bytes))
            finally:
                writer.transport.abort()
    except TimeoutError as error:
        raise PlantFault(f"no whole answer within {within_s:g} s") from error
    except asyncio.IncompleteReadError as error:
        raise PlantFault("hung up without a whole answer") from error
    except OSError as error:
        raise PlantFault(error.strerror or str(error)) from error


def _record(kind: int, content: bytes) -> bytes:
    assert len(content) < 65536
    return _HEAD.pack(1, kind, _ID, len(content), 0) + content


def _pairs(params: Mapping[str, str]) -> bytes:
    found = bytearray()
    for name, text in params.items():
        for length in (len(name), len(text)):
            found += bytes([length]) if length < 128 else struct.pack("!I", length | 1 << 31)
        found += name.encode() + text.encode()
    return bytes(found)


async def _answer(reader: asyncio.StreamReader, most_bytes: int) -> bytes:
    """All of standard output. Raises PlantFault, IncompleteReadError."""
    out, seen = bytearray(), 0
    while True:
        version, kind, number, length, padding = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        if version != 1 or number != _ID or kind not in {_END, _STDOUT, _STDERR}:
            raise PlantFault("does not speak FastCGI")
        content = await reader.readexactly(length)
        await reader.readexactly(padding)
        seen += max(_LEAST_BYTES, length + padding)
        if seen > most_bytes:
            raise PlantFault(f"the answer is longer than {most_bytes} bytes")
        if kind == _END:
            return bytes(out)
        if kind == _STDOUT:
            out += content


def _body(answer: bytes) -> bytes:
    """What follows the headers. Raises PlantFault unless the status is 200."""
    head, gap, body = answer.partition(b"\r\n\r\n")
    if not gap:
        raise PlantFault("the answer has no end of its headers")
    for line in head.split(b"\r\n"):
        name, _, text = line.partition(b":")
        if name.strip().lower() == b"status" and text.split()[:1] != [b"200"]:
            said = text.strip()[:_MOST_SAID].decode("latin-1")
            raise PlantFault(f"answered {''.join(c if ' ' <= c <= '~' else '?' for c in said)}")
    return body
