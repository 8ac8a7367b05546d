"""`poolwright resume POOL`."""

import argparse
from typing import Any

from poolwright.cli import control


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    control.add(subparsers, "resume")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon."""
    return control.run(args, "resume")
