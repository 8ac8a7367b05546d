"""The file of a php-fpm pool: what of it is moved, and what a reload depends on. Pure."""

import re
from dataclasses import dataclass

from poolwright.core.errors import PlantFault

_SECTION = re.compile(rb"[ \t]*\[([^\]\n]+)\]")
_PM = re.compile(rb"[ \t]*pm[ \t]*=[ \t]*\"?(static|dynamic|ondemand)\"?[ \t]*(?:;.*)?")
_SIZE = re.compile(rb"[ \t]*pm\.max_children[ \t]*=[ \t]*\"?(\d{1,6})\"?[ \t]*(?:;.*)?")
_INCLUDE = re.compile(rb"[ \t]*include[ \t]*=")
_SET_PM = re.compile(rb"[ \t]*pm[ \t]*=")
_SET_SIZE = re.compile(rb"[ \t]*pm\.max_children[ \t]*=")
_GRACE = re.compile(rb"[ \t]*process_control_timeout[ \t]*=[ \t]*\"?(\d+)[smhd]?\"?[ \t]*(?:;.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What one section says."""

    static: bool
    size: int  # pm.max_children
    text: bytes  # of the whole file
    start: int  # of the digits in it
    end: int

    def resized(self, size: int) -> bytes:
        """The whole file with another size; every other byte stays."""
        return self.text[: self.start] + b"%d" % size + self.text[self.end :]


def parse_pool(text: bytes, path: str, name: str) -> Pool:
    """The pool `name` of a file. Raises PlantFault naming it when it is not what is expected:
    one `pm` and one `pm.max_children` in the section, written out, and nothing included.
    """
    modes, sizes = [], []
    for at, line in _lines_of(text, name.encode()):
        if _INCLUDE.match(line):
            raise PlantFault(f"{path}: [{name}] includes other files: name the one with its size")
        if _SET_PM.match(line):
            modes.append(_PM.fullmatch(line))
        elif _SET_SIZE.match(line):
            sizes.append((at, _SIZE.fullmatch(line)))
    mode = modes[0] if len(modes) == 1 else None
    at, size = sizes[0] if len(sizes) == 1 else (0, None)
    if mode is None or size is None:
        raise PlantFault(
            f"{path}: [{name}] needs one line `pm = static` (or dynamic, ondemand) and one line "
            f"`pm.max_children = 8`, with the number written out; it has {len(modes)} and "
            f"{len(sizes)}"
        )
    return Pool(
        static=mode[1] == b"static",
        size=int(size[1]),
        text=text,
        start=at + size.start(1),
        end=at + size.end(1),
    )


def has_grace(text: bytes) -> bool:
    """Whether [global] of a php-fpm.conf has a process_control_timeout above 0."""
    found = [
        match
        for _, line in _lines_of(text, b"global")
        if (match := _GRACE.fullmatch(line)) is not None
    ]
    return bool(found) and int(found[-1][1]) > 0


def _lines_of(text: bytes, section: bytes) -> list[tuple[int, bytes]]:
    """The lines of a section, each with where it begins."""
    found, here, at = [], False, 0
    for line in text.split(b"\n"):
        head = _SECTION.match(line)
        if head is not None:
            here = head[1].strip() == section
        elif here:
            found.append((at, line.rstrip(b"\r")))
        at += len(line) + 1
    return found
