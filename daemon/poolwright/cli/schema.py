"""`poolwright schema config|policy|explanation`: the JSON Schema, made from the code itself."""

import argparse
import json
from typing import Any

from poolwright.policy.json_schema import config_schema, policy_schema


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "schema", help="print the JSON Schema of a file or an answer", description=__doc__
    )
    parser.add_argument("what", choices=("config", "policy", "explanation"))


def run(args: argparse.Namespace) -> int:
    """Print the schema."""
    print(schema_text(args.what), end="")
    return 0


def schema_text(what: str) -> str:
    """The schema of `config`, `policy` or `explanation`, as shipped in config/schema/."""
    if what == "policy":
        schema = policy_schema()
    elif what == "explanation":
        import msgspec  # noqa: PLC0415 - not for the others

        from poolwright.surface.account import Explanation  # noqa: PLC0415

        schema = msgspec.json.schema(Explanation)
    else:
        # Here, because the adapters are imported for it.
        from poolwright.actuators import ACTUATORS  # noqa: PLC0415
        from poolwright.engine.build import options_types  # noqa: PLC0415
        from poolwright.sensors import SENSORS  # noqa: PLC0415

        schema = config_schema(options_types(SENSORS), options_types(ACTUATORS))
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
