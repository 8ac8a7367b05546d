"""The X-Request-Start header: when a request set out, as a proxy or a client tells it."""

import re

_START = re.compile(rb"(?:t=)?(\d{1,20}(?:\.\d{1,12})?)$")


def start_ns(header: bytes) -> int | None:
    """Nanoseconds since 1970 of an X-Request-Start header, None when it is not one.

    The unit is told by the magnitude, as APM agents do: seconds today are 1.7e9, milliseconds
    1.7e12, microseconds 1.7e15, nanoseconds 1.7e18.
    """
    found = _START.match(header)
    if found is None:
        return None
    whole, _, part = found[1].decode().partition(".")
    count = int(whole)
    for least, digits in ((10**17, 0), (10**14, 3), (10**11, 6), (10**8, 9)):
        if count >= least:  # `digits` more places make it nanoseconds
            return int(whole + part[:digits].ljust(digits, "0"))
    return None
