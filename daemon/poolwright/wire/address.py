"""Where something listens: `127.0.0.1:6432`, `[::1]:6432` or `unix:/run/x.sock`."""

from poolwright.core.errors import PolicyError

Address = str | tuple[str, int]  # a socket's path, or host and port


def parse_address(text: str) -> Address:
    """A UNIX socket's path, or host and port. Raises PolicyError saying how it is written."""
    if text.startswith("unix:/"):
        return text.removeprefix("unix:")
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not host or not 0 < number < 65536 or host.startswith("unix"):
        raise PolicyError(f"{text!r} is no address such as 127.0.0.1:6432 or unix:/run/x.sock")
    return host, number
