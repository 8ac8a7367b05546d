"""Takes a preset apart in the tree of its file, and makes a shipped policy suit it.

Before anything is bound: what is written in the preset keeps its place, so whatever is wrong with
a value points at it, and what the table adds has the place of the preset. Sensors that the pool has
beside its preset replace those of the same kind, or are added.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from poolwright.policy.bind import Binder, field_specs, suggestion
from poolwright.policy.preset import PRESETS, Part, Preset
from poolwright.policy.scalars import is_plain
from poolwright.policy.tree import Listing, Mapping, Mark, Node, Scalar

# Sensors of which it is known what they do not tell; `signals` of the others is looked at.
_NO_ERRORS = frozenset(
    ("cgroup", "host", "listen_queue", "nginx", "pgbouncer", "php_fpm", "power", "process_tree")
) | {"uwsgi"}
_NO_LATENCY = _NO_ERRORS | {"haproxy"}
_MAPPED = ("prometheus", "promql")
_OF_LATENCY = re.compile(r"latency_p.*|jitter")


def with_parts(pool: Mapping, binder: Binder, where: str) -> tuple[Mapping, bool]:
    """A pool with the actuator and the sensors that its preset stands for, and whether it is right.

    What is wrong with the preset is noted; there are parts all the same, so that the rest of the
    pool can be judged. A pool without a preset is given back as it is.
    """
    node = pool.get("preset")
    if node is None or (isinstance(node, Scalar) and node.is_null):
        return pool, True
    own = _own_parts(node, binder, f"{where}.preset")
    right = bool(own)
    if (written := pool.key("actuator")) is not None:
        message = "a preset has its own; write `preset`, or `actuator` with `sensors`"
        binder.refuse(written.mark, f"{where}.actuator", message)
        right = False
    stub = Mapping(node.mark, ((_key(node, "kind"), _key(node, "none")),))
    actuator, *seeing = own or (stub, stub)
    beside = pool.get("sensors")
    sensors: Node = beside or Listing(node.mark, tuple(seeing))
    if isinstance(beside, Listing):
        replaced = {_text(item, "kind") for item in beside.items}
        kept = tuple(sensor for sensor in seeing if _text(sensor, "kind") not in replaced)
        sensors = replace(beside, items=(*kept, *beside.items))
    done = ("actuator", "sensors") if own else ("actuator", "sensors", "preset")
    left = (entry for entry in pool.entries if entry[0].text not in done)
    added = ((_key(node, "actuator"), actuator), (_key(node, "sensors"), sensors))
    return replace(pool, entries=(*left, *added)), right


def _own_parts(node: Node, binder: Binder, where: str) -> tuple[Mapping, ...]:
    """Actuator and sensors of a preset; none after noting what is wrong with it."""
    kind = node.get("kind") if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping) or not isinstance(kind, Scalar):
        mark = node.mark if kind is None else kind.mark
        binder.refuse(mark, where, "is not a mapping such as {kind: gunicorn, pidfile: FILE}")
        return ()
    if kind.text not in PRESETS:
        hint = suggestion(kind.text, PRESETS)
        binder.refuse(kind.mark, where, f"unknown preset {kind.text!r}{hint}")
        return ()
    preset = PRESETS[kind.text]
    options = binder.dataclass(node, preset.options, where, skip="kind")
    twice = list(_twice(preset, node))
    for mark, message in twice:
        binder.refuse(mark, where, message)
    if twice or not isinstance(options, preset.options):
        return ()
    return tuple(made for _, made in parts_of(node, options))


def parts_of(node: Mapping, options: Any) -> list[tuple[Part, Mapping]]:
    """The actuator and then the sensors of a preset, with their options as a tree."""
    preset = PRESETS[_text(node, "kind")]
    given = _given(node, options)
    chosen = [preset.actuator]
    for group in preset.sensors:
        there = (part for part in group if all(name in given for name in part.needs.values()))
        chosen += list(islice(there, 1))
    return [(part, _made(part, node, given)) for part in chosen]


def _given(node: Mapping, options: Any) -> dict[str, Node]:
    """The options that are written, derived, or have a default; null takes one away."""
    derived = options.derived() if hasattr(options, "derived") else {}
    found: dict[str, Node] = {}
    kind: type = type(options)
    for spec in field_specs(kind):
        written = node.get(spec.name)
        default = derived.get(spec.name, spec.default)
        if written is None and isinstance(default, str):
            found[spec.name] = _scalar(node, default)
        elif written is not None and not (isinstance(written, Scalar) and written.is_null):
            found[spec.name] = written
    return found


def _made(part: Part, node: Mapping, given: dict[str, Node]) -> Mapping:
    """One adapter as it would be written."""
    fixed = {"kind": part.kind, **part.fixed}
    below: dict[str, Node] = {name: _scalar(node, text) for name, text in fixed.items()}
    wanted = {**part.needs, **part.takes}
    below |= {name: given[own] for name, own in wanted.items() if own in given}
    return Mapping(node.mark, tuple((_key(node, name), value) for name, value in below.items()))


def _twice(preset: Preset, node: Mapping) -> Iterator[tuple[Mark, str]]:
    """Options that say in two ways where one and the same is seen."""
    for group in preset.sensors:
        told = [
            keys
            for part in group
            if all(keys := [_written(node, name) for name in part.needs.values()])
        ]
        if len(group) > 1 and len(told) > 1:
            (first, *_), (second, *_) = told[:2]
            assert first is not None
            assert second is not None
            yield second.mark, f"{first.text} and {second.text} tell the same; give one of them"


def _written(node: Mapping, name: str) -> Scalar | None:
    below = node.get(name)
    return None if isinstance(below, Scalar) and below.is_null else node.key(name)


def _key(node: Node, name: str) -> Scalar:
    return Scalar(node.mark, name, plain=True)


def _scalar(node: Node, text: str) -> Scalar:
    """A text of the table, as it would be written."""
    return Scalar(node.mark, text, plain=is_plain(text))


def _text(node: Node, key: str) -> str:
    below = node.get(key) if isinstance(node, Mapping) else None
    return below.text if isinstance(below, Scalar) else ""


@dataclass(frozen=True, slots=True)
class Suit:
    """What a shipped policy must leave out, and how its knob is called, to suit a preset."""

    knob: str
    latency: bool
    errors: bool
    mark: Mark  # of what is seen in the place of latency

    @classmethod
    def of(cls, kind: str, sensors: Sequence[Mapping]) -> "Suit":
        """By the kind of the preset and all sensors of its pool, of which there is one."""
        return cls(
            PRESETS[kind].knob,
            any(_tells(sensor, _NO_LATENCY, "latency", "service_time") for sensor in sensors),
            any(_tells(sensor, _NO_ERRORS, "errors") for sensor in sensors),
            sensors[0].mark,
        )

    def __call__(self, root: Mapping) -> Mapping:
        """The tree of a shipped policy: the preset's knob with the bounds of `workers`, and no
        word of latency or errors where nobody sees them; what is served counts in its place.
        """
        root = _changed(root, "knobs", self._knobs)
        root = _changed(root, "objective", self._objective)
        return _changed(root, "slo", self._promised)

    def _knobs(self, node: Mapping) -> Mapping:
        entries = (
            (replace(key, text=self.knob) if key.text == "workers" else key, below)
            for key, below in node.entries
        )
        return replace(node, entries=tuple(entries))

    def _objective(self, node: Mapping) -> Mapping:
        kept = tuple(entry for entry in node.entries if self._is_seen(entry[0].text))
        if len(kept) < len(node.entries) and node.get("throughput") is None:
            key = Scalar(self.mark, "throughput", plain=True)
            kept = ((key, Scalar(self.mark, "1.0", plain=True)), *kept)
        return replace(node, entries=kept)

    def _promised(self, node: Mapping) -> Mapping:
        kept = (entry for entry in node.entries if self._is_seen(entry[0].text))
        return replace(node, entries=tuple(kept))

    def _is_seen(self, response: str) -> bool:
        if response == "error_ratio":
            return self.errors
        return self.latency or not _OF_LATENCY.fullmatch(response)


def _changed(root: Mapping, name: str, change: Callable[[Mapping], Mapping]) -> Mapping:
    entries = (
        (key, change(below) if key.text == name and isinstance(below, Mapping) else below)
        for key, below in root.entries
    )
    return replace(root, entries=tuple(entries))


def _tells(sensor: Mapping, silent: frozenset[str], *signals: str) -> bool:
    """Whether a sensor may tell one of `signals`; of a kind that is not known it is believed."""
    kind = _text(sensor, "kind")
    if kind in _MAPPED:
        mapped = sensor.get("signals")
        return isinstance(mapped, Mapping) and any(map(mapped.get, signals))
    if kind == "celery":
        return _text(sensor, "events") == "true"
    return kind not in silent
