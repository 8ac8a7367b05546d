"""A secret from a file: read when it is used, so that it may be replaced while the daemon runs."""

import os
import stat

from poolwright.core.errors import PlantFault

_MOST_BYTES = 16 * 1024


def read_secret(path: str) -> str:
    """What the file at `path` holds, without the newline at its end.

    Raises PlantFault naming it, never its content: it is missing, empty, longer than 16 KiB, not
    printable ASCII, no regular file, or everybody on the host may read it.
    """
    try:
        # a FIFO must not be waited for; what a link leads to is judged
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            seen = os.fstat(file)
            raw = os.read(file, _MOST_BYTES + 1) if stat.S_ISREG(seen.st_mode) else None
        finally:
            os.close(file)
    except OSError as error:
        raise PlantFault(f"secret {path}: {error.strerror}") from error
    if raw is None:
        raise PlantFault(f"secret {path}: is no regular file")
    if seen.st_mode & 0o007:
        mode = f"{stat.S_IMODE(seen.st_mode):04o}"
        raise PlantFault(
            f"secret {path}: everybody may read or write it (mode {mode}), so it is none: "
            "chmod o-rwx, in Kubernetes defaultMode: 0440"
        )
    text = raw.rstrip(b"\r\n")
    if not text or len(raw) > _MOST_BYTES or not all(32 <= byte < 127 for byte in text):
        raise PlantFault(f"secret {path}: is empty, too long, or more than one printable line")
    return text.decode("ascii")
