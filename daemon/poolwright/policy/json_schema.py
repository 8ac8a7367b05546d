"""JSON Schema (2020-12) of what `policy.bind` accepts, for editors and for checks elsewhere.

It is made from the same dataclasses, so it cannot drift; contradictions between fields and what
reaches beyond one file are left to `poolwright check`.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from poolwright.policy import quantities
from poolwright.policy.bind import FieldSpec, field_specs, quantity_of
from poolwright.policy.config import AdapterConfig, DaemonConfig
from poolwright.policy.schema import PolicyFile

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BOUNDS = {
    "min": "minimum",
    "max": "maximum",
    "above": "exclusiveMinimum",
    "below": "exclusiveMaximum",
}
_PLAIN: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def policy_schema() -> Schema:
    """The schema of a policy file."""
    return _Writer({}).document(PolicyFile, "poolwright policy")


def config_schema(sensors: Mapping[str, type], actuators: Mapping[str, type]) -> Schema:
    """The schema of a daemon's configuration; the tables give the `Options` of each kind."""
    tables = {"sensors": sensors, "actuator": actuators}
    return _Writer(tables).document(DaemonConfig, "poolwright configuration")


class _Writer:
    """Writes one schema; every dataclass becomes one definition."""

    def __init__(self, adapters: Mapping[str, Mapping[str, type]]) -> None:
        self._adapters = adapters
        self._defs: Schema = {}
        self._kinds: dict[str, Any] = {}

    def document(self, kind: type, title: str) -> Schema:
        body = self._object(kind)
        return {
            "$schema": _DIALECT,
            "title": title,
            **body,
            "$defs": dict(sorted(self._defs.items())),
        }

    def _object(self, kind: type) -> Schema:
        specs = field_specs(kind)
        required = [spec.name for spec in specs if spec.required]
        schema: Schema = {
            "description": _summary(kind),
            "type": "object",
            "properties": {spec.name: self._field(spec) for spec in specs},
            "additionalProperties": False,
        }
        return {**schema, "required": required} if required else schema

    def _field(self, spec: FieldSpec) -> Schema:
        schema = self._type(spec.annotation, spec)
        if "doc" in spec.metadata:
            schema = {"description": spec.metadata["doc"], **schema}
        if not spec.required and not dataclasses.is_dataclass(spec.default):
            schema["default"] = _default(spec)
        return schema

    def _type(self, annotation: Any, spec: FieldSpec) -> Schema:
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        kind = quantity_of(annotation)
        if kind is not None:
            return _quantity(kind, spec)
        if origin in (types.UnionType, typing.Union):
            inner = next(arg for arg in args if arg is not types.NoneType)
            return {"anyOf": [self._type(inner, spec), {"type": "null"}]}
        if origin is Literal:
            return {"enum": list(args)}
        if origin is tuple:
            least = {"minItems": 1} if spec.metadata.get("nonempty") else {}
            return {"type": "array", "items": self._type(args[0], spec), **least}
        if origin is dict:
            return self._dictionary(args[1], spec)
        if dataclasses.is_dataclass(annotation):
            return {"$ref": f"#/$defs/{self._definition(annotation, spec)}"}
        if isinstance(annotation, type) and issubclass(annotation, StrEnum):
            return {"enum": [str(member) for member in annotation]}
        return {"type": _PLAIN[annotation], **_limits(spec)}

    def _dictionary(self, annotation: Any, spec: FieldSpec) -> Schema:
        schema: Schema = {"type": "object", "additionalProperties": self._type(annotation, spec)}
        if "keys" in spec.metadata:
            schema["propertyNames"] = {"enum": list(spec.metadata["keys"])}
        if spec.metadata.get("nonempty"):
            schema["minProperties"] = 1
        return schema

    def _definition(self, kind: Any, spec: FieldSpec) -> str:
        if kind is AdapterConfig:
            return self._adapter(spec.name)
        name = str(kind.__name__)
        if name not in self._defs:
            self._kinds[name] = kind
            self._defs[name] = self._object(kind)
        assert self._kinds[name] is kind, f"two classes are called {name}"
        return name

    def _adapter(self, table: str) -> str:
        """A definition whose `kind` selects the options."""
        if table not in self._defs:
            kinds = sorted(self._adapters[table])
            choices = []
            for kind in kinds:
                options = self._object(self._adapters[table][kind])
                options["properties"] = {"kind": {"const": kind}} | options["properties"]
                options["required"] = ["kind", *options.get("required", [])]
                self._defs[f"{table}.{kind}"] = options
                when = {"properties": {"kind": {"const": kind}}, "required": ["kind"]}
                choices.append({"if": when, "then": {"$ref": f"#/$defs/{table}.{kind}"}})
            self._defs[table] = {
                "type": "object",
                "properties": {"kind": {"enum": kinds}},
                "required": ["kind"],
                "allOf": choices,
            }
        return table


def _quantity(kind: str, spec: FieldSpec) -> Schema:
    text: Schema = {"type": "string", "pattern": quantities.PATTERNS[kind]}
    if kind not in quantities.BARE:
        return text
    own = {"ratio": {"minimum": 0, "maximum": 1}}.get(kind, {"minimum": 0})
    return {"anyOf": [{"type": quantities.BARE[kind], **own, **_limits(spec)}, text]}


def _limits(spec: FieldSpec) -> Schema:
    limits = {_BOUNDS[name]: spec.metadata[name] for name in _BOUNDS if name in spec.metadata}
    if "pattern" in spec.metadata:
        limits["pattern"] = f"^(?:{spec.metadata['pattern']})$"
    return limits


def _default(spec: FieldSpec) -> Any:
    """The default as it would be written."""
    value = spec.default
    inner = [spec.annotation, *typing.get_args(spec.annotation)]
    kind = next(filter(None, map(quantity_of, inner)), None)
    if isinstance(value, int | float) and not isinstance(value, bool) and kind is not None:
        return quantities.render(kind, value)
    return list(value) if isinstance(value, tuple) else value


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")
