"""Annotated types: the unit of a number, and how a person may write it in YAML.

A dataclass field of such a type is bound from YAML by `policy.bind`, converted once, and is from
then on a plain float or int in the base unit named here.
"""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Quantity:
    """The kind of quantity of an annotated number: which suffixes it takes when written."""

    kind: str


Seconds = Annotated[float, Quantity("duration")]  # 250ms, 3s, 5m, 1h, 2d; a bare number is refused
Ratio = Annotated[float, Quantity("ratio")]  # 0..1: 85%, 0.85
Bytes = Annotated[int, Quantity("bytes")]  # 512MiB, 2GB, 4096
Rps = Annotated[float, Quantity("rate")]  # 100/s, 6000/m; a bare number is a rate a second
HostPort = Annotated[str, Quantity("host_port")]  # 127.0.0.1:8125, [::1]:9817
PathText = Annotated[
    str, Quantity("path")
]  # a file's path; `unix:/run/x.sock` where a socket may be
