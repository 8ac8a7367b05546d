"""JSON Schema (2020-12) of what `policy.bind` accepts, for editors and for checks elsewhere.

It is made from the same dataclasses, so it cannot drift; contradictions between fields and what
reaches beyond one file are left to `poolwright check`.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

from poolwright.policy import quantities
from poolwright.policy.bind import FieldSpec, collects, field_specs, quantity_of
from poolwright.policy.config import AdapterConfig, DaemonConfig
from poolwright.policy.preset import PRESETS
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
    """The schema of a policy file: a whole policy, one that extends another, or a layer.

    The last two give only what they change, in which null takes away what lies below.
    """
    writer = _Writer({})
    whole = writer.variant("Policy", PolicyFile, part=False, without=("extends", "pools"))
    extension = writer.variant(
        "Extension", PolicyFile, without=("pools",), required=("version", "name", "extends")
    )
    layer = writer.variant(
        "Layer", PolicyFile, without=("name", "extends"), required=("version", "pools")
    )
    extends = {"if": {"required": ["extends"]}, "then": extension, "else": whole}
    choice = {"if": {"required": ["pools"]}, "then": layer, "else": extends}
    return writer.document("poolwright policy", {"type": "object", **choice})


def config_schema(sensors: Mapping[str, type], actuators: Mapping[str, type]) -> Schema:
    """The schema of a daemon's configuration; the tables give the `Options` of each kind."""
    presets = {kind: preset.options for kind, preset in PRESETS.items()}
    tables = {"sensors": sensors, "actuator": actuators, "preset": presets}
    writer = _Writer(tables)
    return writer.document("poolwright configuration", writer.object(DaemonConfig))


class _Writer:
    """Writes one schema; every dataclass becomes one definition."""

    def __init__(self, adapters: Mapping[str, Mapping[str, type]]) -> None:
        self._adapters = adapters
        self._defs: Schema = {}
        self._kinds: dict[str, Any] = {}
        self._part = False  # whether what is written may be a part, completed by other files

    def document(self, title: str, body: Schema) -> Schema:
        """The whole schema."""
        return {
            "$schema": _DIALECT,
            "title": title,
            **body,
            "$defs": dict(sorted(self._defs.items())),
        }

    def variant(
        self,
        name: str,
        kind: type,
        *,
        without: tuple[str, ...],
        part: bool = True,
        required: tuple[str, ...] = (),
    ) -> Schema:
        """A reference to a definition of `kind` without some of its fields."""
        self._part = part
        body = self.object(kind)
        for field in without:
            del body["properties"][field]
        if required:
            body["required"] = list(required)
        self._part = False
        self._defs[name] = body
        return {"$ref": f"#/$defs/{name}"}

    def object(self, kind: type) -> Schema:
        """What a dataclass takes."""
        specs = field_specs(kind)
        needed = [] if self._part else [spec for spec in specs if spec.required]
        required = [spec.name for spec in needed if "unless" not in spec.metadata]
        alike = {
            f"^(?:{spec.metadata['keys_like']})$": self._described(
                self._type(typing.get_args(spec.annotation)[1], spec), spec
            )
            for spec in specs
            if collects(spec)
        }
        schema: Schema = {
            "description": _summary(kind),
            "type": "object",
            "properties": {spec.name: self._field(spec) for spec in specs if not collects(spec)},
            **({"patternProperties": alike} if alike else {}),
            "additionalProperties": False,
        }
        schema |= {"required": required} if required else {}
        return schema | _alternatives(needed)

    def _field(self, spec: FieldSpec) -> Schema:
        schema = self._described(self._type(spec.annotation, spec), spec)
        if not spec.required and not dataclasses.is_dataclass(spec.default):
            schema["default"] = _default(spec)
        return schema

    def _described(self, schema: Schema, spec: FieldSpec) -> Schema:
        schema = self._or_null(schema)
        return {"description": spec.metadata["doc"], **schema} if "doc" in spec.metadata else schema

    def _or_null(self, schema: Schema) -> Schema:
        """In a part null takes away what another file gives."""
        if not self._part or {"type": "null"} in schema.get("anyOf", ()):
            return schema
        return (
            {"anyOf": [*schema["anyOf"], {"type": "null"}]}
            if list(schema) == ["anyOf"]
            else {"anyOf": [schema, {"type": "null"}]}
        )

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
            part, self._part = self._part, False  # items are not merged: each is complete
            items = self._type(args[0], spec)
            self._part = part
            return {"type": "array", "items": items, **least}
        if origin is dict:
            return self._dictionary(args[1], spec)
        if dataclasses.is_dataclass(annotation):
            return {"$ref": f"#/$defs/{self._definition(annotation, spec)}"}
        if isinstance(annotation, type) and issubclass(annotation, StrEnum):
            return {"enum": [str(member) for member in annotation]}
        return {"type": _PLAIN[annotation], **_limits(spec)}

    def _dictionary(self, annotation: Any, spec: FieldSpec) -> Schema:
        below = self._or_null(self._type(annotation, spec))
        schema: Schema = {"type": "object", "additionalProperties": below}
        if "keys" in spec.metadata:
            names: Schema = {"enum": list(spec.metadata["keys"])}
            if "keys_like" in spec.metadata:
                like = {"pattern": f"^(?:{spec.metadata['keys_like']})$"}
                names = {"anyOf": [names, like]}
            schema["propertyNames"] = names
        if spec.metadata.get("nonempty"):
            schema["minProperties"] = 1
        return schema

    def _definition(self, kind: Any, spec: FieldSpec) -> str:
        if kind is AdapterConfig:
            return self._adapter(spec.name)
        name = str(kind.__name__) + ("Part" if self._part else "")
        if name not in self._defs:
            self._kinds[name] = kind
            self._defs[name] = self.object(kind)
        assert self._kinds[name] is kind, f"two classes are called {name}"
        return name

    def _adapter(self, table: str) -> str:
        """A definition whose `kind` selects the options."""
        if table not in self._defs:
            kinds = sorted(self._adapters[table])
            choices = []
            for kind in kinds:
                options = self.object(self._adapters[table][kind])
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


def _alternatives(needed: Sequence[FieldSpec]) -> Schema:
    """Fields that are needed `unless` another is given."""
    optional = [spec for spec in needed if "unless" in spec.metadata]
    if not optional:
        return {}
    (other,) = {spec.metadata["unless"] for spec in optional}
    return {
        "if": {"required": [other]},
        "else": {"required": [spec.name for spec in optional]},
    }


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
