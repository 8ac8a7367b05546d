"""`poolwright pause POOL`."""

import argparse
from typing import Any

from poolwright.cli import control


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    control.add(subparsers, "pause")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon."""
    return control.run(args, "pause")
