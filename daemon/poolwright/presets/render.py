"""The text of a first configuration and policy, with what was seen as comments."""

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from poolwright.presets.bounds import bounds
from poolwright.presets.facts import Facts
from poolwright.presets.found import Advice, Found, Options, printable

# Plain in a YAML flow, and text whoever reads it: no number, no date, no true or null.
_PLAIN = re.compile(r"/[\w./@-]+|[a-z]+(?:[._-][a-z]+)*")
_WORDS_OF_YAML = frozenset(("true", "false", "null", "yes", "no", "on", "off"))
_WIDTH = 96


def config_text(pools: Sequence[Found], policies: str) -> str:
    """The daemon's configuration for these pools; `policies` is the folder of their policies."""
    lines = [
        "# Written by `poolwright init` from what ran then. `poolwright check --probe` tries it.",
        "# Keys that are not here have their defaults: see config/poolwright.yaml of poolwright.",
        "version: 1",
        f"policies: {_scalar(policies)}",
        "pools:",
    ]
    for found in pools:
        lines += _pool(found)
    return "\n".join(lines) + "\n"


def policy_text(found: Found, facts: Facts) -> str:
    """A policy in mode recommend, with bounds from what runs now."""
    made = bounds(found, facts)
    limits = f"min: {made.lower}, max: {made.upper}, slew: 4, settle: {found.settle}"
    lines = [
        f"# What is wanted of pool {found.name}. Every key: docs/policy.md of poolwright.",
        "version: 1",
        f"name: {found.name}",
        "mode: recommend            # it advises and moves nothing; auto: it acts",
        "",
        *(f"# {line}" for line in made.why),
        "knobs:",
        f"  {found.knob}: {{{limits}}}",
        "",
        *_wishes(found),
    ]
    return "\n".join(lines) + "\n"


def _pool(found: Found) -> Iterator[str]:
    yield f"  - name: {found.name}"
    yield f"    policy: {found.name}"
    yield from _comments("needs: ", found.rights, indent=4)
    yield f"    actuator: {_flow(found.actuator)}"
    yield "    sensors:"
    for sight in found.sights:
        yield f"      # {sight.why}"
        yield f"      - {_flow(sight.options)}"
    yield from _comments("to see more: ", found.better, indent=6)


def _comments(kind: str, advice: Iterable[Advice], indent: int) -> Iterator[str]:
    """What is lacking, and below it the line to add, whole: it is copied from here."""
    margin = f"{' ' * indent}# "
    for item in advice:
        text = printable(f"{kind}{item.what}{':' if item.add else ''}")
        yield from textwrap.wrap(text, _WIDTH, initial_indent=margin, subsequent_indent=margin)
        if item.add:
            yield f"{margin}  {printable(item.add)}"


def _wishes(found: Found) -> Iterator[str]:
    """Objective and SLO, only of what the sensors tell."""
    memory = (
        ", memory: 0.1" if any(s.options["kind"] == "process_tree" for s in found.sights) else ""
    )
    if not found.latency:
        yield "# None of the sensors tells latency: what is served counts, the queue is watched."
        yield f"objective: {{throughput: 1.0{memory}}}"
        if found.errors:
            yield "slo:"
            yield "  error_ratio: {below: 1%}   # a placeholder: SET IT to what you owe your users"
        return
    yield "# All weights are minimised, each relative to its bound under slo."
    yield f"objective: {{latency_p99: 1.0{memory}}}"
    yield ""
    yield "# Placeholders, nothing was measured yet: SET THEM to what you owe your users."
    yield "slo:"
    yield "  latency_p99: {below: 250ms, confidence: 95%}"
    if found.errors:
        yield "  error_ratio: {below: 1%}"


def _flow(options: Options) -> str:
    return "{" + ", ".join(f"{key}: {_scalar(told)}" for key, told in options.items()) + "}"


def _scalar(told: object) -> str:
    if isinstance(told, list):
        return "[" + ", ".join(_scalar(item) for item in told) + "]"
    if isinstance(told, str) and _PLAIN.fullmatch(told) and told not in _WORDS_OF_YAML:
        return told
    return json.dumps(told, ensure_ascii=False)
