"""The service behind HAProxy: past its capacity each request makes the others slower.

A request waits on I/O beside the others, and then changes what all of them want, under one lock,
which takes the longer the more requests there are. Up to the knee more at once serve more; past it
they serve less, and a queue in front of the service is better than one in it.
"""

import threading
import time
from random import Random
from urllib.parse import parse_qs

_IO_S = 0.06  # mean; uniform in half to one and a half times that
_LOCKED_S = 0.002  # alone
_EACH_S = 0.0015  # more, for each other request under way

_hot = threading.Lock()
_count = threading.Lock()
_under_way = 0


def _enter(step):
    """How many are under way after one more, or one less."""
    global _under_way  # noqa: PLW0603
    with _count:
        _under_way += step
        return _under_way


def app(environ, start_response):
    """`/?n=NUMBER`; the answer is how many others were under way."""
    number = int(parse_qs(environ["QUERY_STRING"]).get("n", ["0"])[0])
    _enter(1)
    try:
        time.sleep(_IO_S * Random(number).uniform(0.5, 1.5))
        with _hot:
            others = _enter(0) - 1
            time.sleep(_LOCKED_S + _EACH_S * others)
    finally:
        _enter(-1)
    body = str(others).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
