"""The text of a first configuration and policy, with what was seen as comments."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from poolwright.policy.bind import field_specs
from poolwright.policy.preset import PRESETS
from poolwright.policy.render import as_text, flow
from poolwright.presets.bounds import bounds
from poolwright.presets.facts import Facts
from poolwright.presets.found import Advice, Found, printable

_WIDTH = 96
_PRESET_WIDTH = 120  # one line reads best, and a longer one is written key by key


_HERE = ("# Not for the unit, whose folders systemd makes: for a look from this folder.",
         "control: control.sock", "journal: journal.db")  # fmt: skip


def config_text(
    pools: Sequence[Found], policies: str, *, full: bool = False, here: bool = False
) -> str:
    """The daemon's configuration for these pools; `policies` is the folder of their policies.

    `full`: what each preset stands for in its place. `here`: its socket and journal lie beside it.
    """
    lines = [
        "# Written by `poolwright init` from what ran then. `poolwright check --probe` tries it,",
        "# --effective tells the rest: what a preset stands for, and the policies in force.",
        "version: 1",
        f"policies: {flow(policies)}",
        *(_HERE if here else ()),
        "pools:",
    ]
    for found in pools:
        lines += _full_pool(found) if full else _pool(found)
    return "\n".join(lines) + "\n"


def policy_text(found: Found, facts: Facts, *, full: bool = False) -> str:
    """What is wanted of a pool, in mode recommend, with bounds from what runs now.

    A layer over the policy that suits the preset; `full`: a policy by itself.
    """
    made = bounds(found, facts)
    limits = f"min: {made.lower}, max: {made.upper}, slew: 4, settle: {found.settle}"
    over = "" if full else ", laid over the policy `balanced`"
    lines = [
        f"# What is wanted of pool {found.name}{over}. Every key: docs/policy.md of poolwright.",
        "version: 1",
        f"name: {found.name}" if full else f"pools: [{found.name}]",
        "mode: recommend            # it advises and moves nothing; auto: it acts",
        "",
        *(f"# {line}" for line in made.why),
        "knobs:",
        f"  {found.knob}: {{{limits}}}",
        "",
        *(_objective(found) if full else ()),
        *_promises(found),
    ]
    return "\n".join(lines) + "\n"


def _pool(found: Found) -> Iterator[str]:
    yield f"  - name: {found.name}"
    yield from _comments("needs: ", found.rights, indent=4)
    defaults = {spec.name: spec.default for spec in field_specs(PRESETS[found.kind].options)}
    # A null that is written takes away what the server's version would tell.
    told = {n: v for n, v in found.preset.items() if v is None or v != defaults.get(n)}
    line = f"    preset: {flow(told)}"
    if len(line) <= _PRESET_WIDTH:
        yield line
    else:
        yield "    preset:"
        yield from (f"      {name}: {flow(value)}" for name, value in told.items())
    yield from _comments("to see more: ", found.better, indent=4)


def _full_pool(found: Found) -> Iterator[str]:
    (_, actuator), *sensors = found.parts
    yield f"  - name: {found.name}"
    yield f"    policy: {found.name}"
    yield from _comments("needs: ", found.rights, indent=4)
    yield f"    actuator: {as_text(actuator)}"
    yield "    sensors:"
    for part, options in sensors:
        yield f"      # {part.why}"
        yield f"      - {as_text(options)}"
    yield from _comments("to see more: ", found.better, indent=6)


def _comments(kind: str, advice: Iterable[Advice], indent: int) -> Iterator[str]:
    """What is lacking, and below it the line to add, whole: it is copied from here."""
    margin = f"{' ' * indent}# "
    for item in advice:
        text = printable(f"{kind}{item.what}{':' if item.add else ''}")
        yield from textwrap.wrap(text, _WIDTH, initial_indent=margin, subsequent_indent=margin)
        if item.add:
            yield f"{margin}  {printable(item.add)}"


def _objective(found: Found) -> Iterator[str]:
    """Of what the sensors tell."""
    memory = ", memory: 0.1" if found.sees("process_tree") else ""
    if found.suit.latency:
        yield "# All weights are minimised, each relative to its bound under slo."
        yield f"objective: {{latency_p99: 1.0{memory}}}"
    else:
        yield f"objective: {{throughput: 1.0{memory}}}"
    yield ""


def _promises(found: Found) -> Iterator[str]:
    """The SLO, only of what the sensors tell."""
    if not found.suit.latency:
        yield "# None of the sensors tells latency: what is served counts, the queue is watched."
    if found.suit.latency or found.suit.errors:
        yield "# Placeholders, nothing was measured yet: SET THEM to what you owe your users."
        yield "slo:"
    if found.suit.latency:
        yield "  latency_p99: {below: 250ms, confidence: 95%}"
    if found.suit.errors:
        yield "  error_ratio: {below: 1%}"
