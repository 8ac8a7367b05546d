"""`poolwright completion bash|zsh|fish`: what a shell needs to complete commands and options.

bash: `poolwright completion bash > /etc/bash_completion.d/poolwright`. zsh: into a file
`_poolwright` in a folder of $fpath. fish: ~/.config/fish/completions/poolwright.fish. The Debian
package has all three.
"""

import argparse
from typing import Any

from poolwright.cli.main import COMMANDS, parser

_SHELLS = ("bash", "zsh", "fish")


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    made = subparsers.add_parser(
        "completion", help="print what a shell needs to complete commands", description=__doc__
    )
    made.add_argument("shell", choices=_SHELLS)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    import shtab  # noqa: PLC0415  nobody else needs it

    print(shtab.complete(parser(COMMANDS), shell=args.shell))
    return 0
