"""The command line: which command there is, and what becomes of its failures.

Only the module of the command that was asked for is imported, so that `poolwright status` does not
pay for the daemon.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Container, Sequence

from poolwright import __version__
from poolwright.core.errors import PlantFault, PolicyError

# Command -> (module with `add(subparsers)` and `run(args) -> int`, help).
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("poolwright.cli.run", "run the daemon"),
    "demo": (
        "poolwright.cli.demo",
        "tune a real gunicorn service under real load, before your eyes",
    ),
    "init": ("poolwright.cli.init", "write a first configuration for what runs here"),
    "check": ("poolwright.cli.check", "validate configurations and policies"),
    "schema": ("poolwright.cli.schema", "print the JSON Schema of configurations or policies"),
    "status": ("poolwright.cli.status", "show what the daemon sees and does"),
    "top": ("poolwright.cli.top", "watch all pools, live"),
    "explain": ("poolwright.cli.explain", "tell why a decision was made"),
    "pareto": ("poolwright.cli.pareto", "show what every setting would give, and cost"),
    "prior": ("poolwright.cli.prior", "write what was learned of a pool, for another host"),
    "journal": ("poolwright.cli.journal", "list, show, export or verify what happened"),
    "replay": ("poolwright.cli.replay", "decide again from a journal, and compare"),
    "simulate": ("poolwright.cli.simulate", "play a scenario against a simulated service"),
    "swarm": ("poolwright.cli.swarm", "play random scenarios with random faults"),
    "pause": ("poolwright.cli.pause", "let a pool be as it is, until resume"),
    "resume": ("poolwright.cli.resume", "take a pool up again, after pause or another hand"),
    "pin": ("poolwright.cli.pin", "hold one setting, until unpin or for a time"),
    "unpin": ("poolwright.cli.unpin", "let go of what pin holds"),
    "approve": ("poolwright.cli.approve", "do what the advice says"),
    "reject": ("poolwright.cli.reject", "do not give this advice again"),
    "rollback": ("poolwright.cli.rollback", "back to an earlier setting, and pause"),
    "restore": ("poolwright.cli.restore", "put the baseline back after a crash"),
    "doctor": ("poolwright.cli.doctor", "show what this host can measure and move"),
    "install": ("poolwright.cli.install", "put the unit and its drop-ins in place, or remove them"),
    "completion": ("poolwright.cli.completion", "print what a shell needs to complete commands"),
}

EXIT_POLICY = 2  # a configuration, policy or argument to be mended by its author
EXIT_PLANT = 3  # the world did not do what was asked
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_PIPE = 141  # 128 + SIGPIPE, what other programs end with when `head` has seen enough


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next((word for word in arguments if not word.startswith("-")), None)
    try:
        return _run(parser({name}), arguments)
    except PolicyError as error:
        print(error, file=sys.stderr)
        return EXIT_POLICY
    except PlantFault as error:
        print(f"poolwright: {error}", file=sys.stderr)
        return EXIT_PLANT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # What is still buffered has no reader: let the interpreter flush it to nowhere at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE


def _run(made: argparse.ArgumentParser, arguments: list[str]) -> int:
    args = made.parse_args(arguments)
    if args.command is None:
        made.print_help()
        return EXIT_POLICY
    module = importlib.import_module(COMMANDS[args.command][0])
    status: int = module.run(args)
    sys.stdout.flush()  # here, where a closed pipe is still caught
    return status


def parser(wanted: Container[str | None]) -> argparse.ArgumentParser:
    """The parser of all commands, of which only those `wanted` have their own arguments."""
    made = argparse.ArgumentParser(
        prog="poolwright",
        description="Finds the right size for the worker pools of a live service.",
    )
    made.add_argument("--version", action="version", version=f"poolwright {__version__}")
    subparsers = made.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (module, text) in COMMANDS.items():
        if name in wanted:
            importlib.import_module(module).add(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    return made
