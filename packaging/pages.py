"""Pages that are made from the code: man pages, completions, and docs/reference.

    python packaging/pages.py share OUT     OUT/man, OUT/bash-completion, OUT/zsh, OUT/fish
    python packaging/pages.py reference     docs/reference; a test compares it with what is there

Commands and options come from argparse, through argparse-manpage and shtab; keys of the files from
the JSON Schemas, which are made from the dataclasses that read them.
"""

import argparse
import gzip
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poolwright import __version__
from poolwright.cli.main import COMMANDS, parser
from poolwright.cli.schema import schema_text

ROOT = Path(__file__).parents[1]
ABOUT = "sizes the worker pools of a live service, safely, and can say why"
Schema = dict[str, Any]

# How a person writes what has this pattern; told apart by a part of it.
_WRITTEN = {
    "(us|ms|s|m|h|d)": "duration (250ms, 3s, 1h)",
    "[KMGT]iB": "bytes (512MiB)",
    "?%$": "share (85%)",
    "]+):[0-9]{1,5}": "host:port",
    "(<=|>=|<|>)": "relation (a * b <= 64)",
    "Mon|Tue": "hours (Mon-Fri 09:00-10:00 Europe/Berlin)",
    "[Tt ]": "time (2027-01-01T00:00:00Z)",
    "latency_p[1-9]": "latency_pNN",
    "[a-z0-9*?-]": "name or glob",
    "[a-z0-9]": "name",
}


@dataclass(frozen=True)
class Key:
    """One key of a file."""

    name: str
    kind: str
    default: str  # "required" when there is none
    text: str


@dataclass(frozen=True)
class Section:
    """The keys of one mapping."""

    title: str
    text: str
    keys: tuple[Key, ...]


def sections(schema: Schema) -> list[Section]:
    """The mappings of a file, outermost first."""
    root = schema if "properties" in schema else schema["$defs"]["Policy"]
    found = {"": root}
    waiting = [root]
    while waiting:
        for name in _references(waiting.pop(0)):
            if name not in found:
                found[name] = schema["$defs"][name]
                waiting.append(found[name])
    made = [_section(name, body) for name, body in found.items() if "properties" in body]
    return [one for one in made if one.keys]


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].removeprefix("#/$defs/")
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _section(name: str, body: Schema) -> Section:
    required = body.get("required", ())
    every = {**body["properties"], **body.get("patternProperties", {})}
    keys = tuple(
        Key(
            name=_written(key) if key.startswith("^") else key,
            kind=_kind(told),
            default="required" if key in required else _default(told),
            text=told.get("description", ""),
        )
        for key, told in every.items()
        if key != "kind" or "." not in name
    )
    where, _, kind = name.partition(".")
    title = f"{where}: kind: {kind}" if kind else _title(name)
    return Section(title, body.get("description", ""), keys if "allOf" not in body else ())


def _title(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _default(told: Schema) -> str:
    if "default" not in told:
        return ""
    default = told["default"]
    return default if isinstance(default, str) else json.dumps(default)


def _written(pattern: str) -> str:
    return next((text for part, text in _WRITTEN.items() if part in pattern), "text")


def _kind(told: Schema) -> str:
    """The type of a value, in words."""
    if "anyOf" in told:
        kinds = dict.fromkeys(_kind(one) for one in told["anyOf"])
        if any(kind.startswith(("duration", "bytes", "share")) for kind in kinds):
            kinds.pop("whole number", None)
            kinds.pop("number", None)
        return " or ".join(kinds)
    if "enum" in told or "const" in told:
        return " or ".join(str(one) for one in told.get("enum", [told.get("const")]))
    if "$ref" in told:
        name = told["$ref"].removeprefix("#/$defs/")
        return f"mapping: {_title(name)}"
    if "pattern" in told:
        return _written(told["pattern"])
    if told.get("type") == "array":
        return f"list of {_kind(told.get('items', {}))}"
    if told.get("type") == "object":
        of = told.get("additionalProperties")
        names = told.get("propertyNames", {}).get("enum")
        keys = f" with keys {', '.join(names)}" if names else ""
        return f"mapping{keys} to {_kind(of)}" if isinstance(of, dict) else f"mapping{keys}"
    plain = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    return plain.get(told.get("type", ""), told.get("type", "anything"))


def markdown_keys(title: str, what: str, guide: str) -> str:
    """A page of docs/reference for one schema."""
    lines = [f"# {title}", "", f"Made from the code by `make docs`; {guide}", ""]
    for section in sections(json.loads(schema_text(what))):
        if section.title:
            lines += [f"## {section.title}", ""]
        lines += [section.text, ""] if section.text else []
        lines += ["| key | takes | default | |", "|---|---|---|---|"]
        for key in section.keys:
            cells = [f"`{key.name}`", key.kind, _code(key.default), key.text]
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _code(default: str) -> str:
    return f"`{default}`" if default and default != "required" else default


def markdown_commands() -> str:
    """docs/reference/cli.md: what every command says of itself."""
    guide = "[commands.md](../commands.md) tells what they are for."
    lines = ["# Commands", "", f"Made from the code by `make docs`; {guide}", ""]
    for name, one in _commands(parser(COMMANDS)):
        text = one.format_help()
        lines += [f"## {name}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _commands(made: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser and those below it, each by its whole name; as wide as a page, not a terminal."""
    made.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=98)
    yield made.prog, made
    for action in made._actions:  # noqa: SLF001  argparse has no public way to its subparsers
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for one in action.choices.values():
                yield from _commands(one)


def roff_keys(name: str, about: str, what: str) -> str:
    """A man page of section 5 for one schema."""
    head = f'.TH "{name.upper()}" "5" "" "poolwright {__version__}" "File Formats"'
    lines = [head, ".SH NAME", f"{_roff(name)} \\- {_roff(about)}", ".SH DESCRIPTION"]
    lines += [".BR poolwright (1)", "reads YAML 1.1 without tags and aliases."]
    lines += ["Unknown keys are refused;", ".B poolwright check", "tells every mistake."]
    for section in sections(json.loads(schema_text(what))):
        lines.append(f'.SH "{_roff(section.title or "keys").upper()}"')
        lines += [_roff(section.text)] if section.text else []
        for key in section.keys:
            plain = {"": "", "required": ", required"}
            default = plain.get(key.default, f", default {key.default}")
            lines += [".TP", f".B {_roff(key.name)}", _roff(f"{key.text or 'see there'}.")]
            lines.append(_roff(f"Takes {key.kind}{default}."))
    return "\n".join([*lines, ".SH SEE ALSO", ".BR poolwright (1)"]) + "\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return "\\&" + escaped if escaped.startswith((".", "\\(aq")) else escaped


def roff_commands() -> str:
    """poolwright.1."""
    from argparse_manpage.manpage import Manpage  # noqa: PLC0415  for packages, not for docs

    data = {"project_name": "poolwright", "version": __version__, "manual_title": "User Commands"}
    page = Manpage(parser(COMMANDS), data)
    page.description = ABOUT
    page.date = ""
    see = ".SH SEE ALSO\n.BR poolwright.yaml (5),\n.BR poolwright\\-policy (5)\n"
    return f"{page}{see}"


def share(out: Path) -> None:
    """What a package puts below /usr/share."""
    import shtab  # noqa: PLC0415

    pages = {
        "man1/poolwright.1": roff_commands(),
        "man5/poolwright.yaml.5": roff_keys(
            "poolwright.yaml", "the configuration of the daemon", "config"
        ),
        "man5/poolwright-policy.5": roff_keys(
            "poolwright-policy", "what the operator wants of a pool", "policy"
        ),
    }
    for place, text in pages.items():
        file = out / "man" / f"{place}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(text.encode(), mtime=0))
    shells = {
        "bash": "bash-completion/completions/poolwright",
        "zsh": "zsh/vendor-completions/_poolwright",
        "fish": "fish/vendor_completions.d/poolwright.fish",
    }
    for shell, place in shells.items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text(shtab.complete(parser(COMMANDS), shell=shell) + "\n")


def reference() -> dict[str, str]:
    """The pages of docs/reference by name."""
    return {
        "cli.md": markdown_commands(),
        "config.md": markdown_keys(
            "Configuration", "config", "an example is `config/poolwright.yaml`."
        ),
        "policy.md": markdown_keys(
            "Policies", "policy", "[policy.md](../policy.md) explains them."
        ),
    }


def main() -> int:
    """Write what was asked for."""
    match sys.argv[1:]:
        case ["share", out]:
            share(Path(out))
        case ["reference"]:
            for name, text in reference().items():
                (ROOT / "docs" / "reference" / name).write_text(text)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
