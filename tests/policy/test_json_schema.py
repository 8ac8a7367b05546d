"""The JSON Schema: it says what the binder does, and the shipped copy is current."""

import json
import re
from pathlib import Path

import pytest

from poolwright.core.signals import RESPONSE_NAMES
from poolwright.policy.bind import field_specs
from poolwright.policy.json_schema import config_schema, policy_schema
from poolwright.policy.quantities import PATTERNS
from poolwright.policy.schema import KnobRule, PolicyFile, SloRules
from poolwright.policy.tree import Listing, Mapping, Scalar, read_document

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config/schema/policy.schema.json"


def test_the_shipped_schema_is_current():
    assert json.loads(SHIPPED.read_text()) == policy_schema(), (
        "poolwright schema policy > config/schema/policy.schema.json"
    )


def test_every_reference_leads_somewhere_and_nothing_else_is_allowed():
    schema = policy_schema()
    text = json.dumps(schema)
    assert set(re.findall(r'#/\$defs/([^"]+)', text)) == set(schema["$defs"])
    for definition in (schema, *schema["$defs"].values()):
        assert definition["additionalProperties"] is False


def test_every_field_is_there_with_a_description():
    schema = policy_schema()
    for kind in (PolicyFile, KnobRule, SloRules):
        properties = (schema if kind is PolicyFile else schema["$defs"][kind.__name__])[
            "properties"
        ]
        assert list(properties) == [spec.name for spec in field_specs(kind)]
        assert all(p["description"] for p in properties.values())


def test_the_rules_of_fields_are_in_it():
    schema = policy_schema()
    knob = schema["$defs"]["KnobRule"]["properties"]
    assert knob["min"]["minimum"] == 1
    assert knob["settle"] == {
        "description": knob["settle"]["description"],
        "type": "string",
        "pattern": PATTERNS["duration"],
        "default": "3s",
    }
    assert schema["properties"]["objective"]["propertyNames"]["enum"] == list(RESPONSE_NAMES)
    assert schema["properties"]["mode"]["enum"] == ["observe", "recommend", "auto"]
    assert schema["required"] == ["version", "name", "knobs", "objective"]


def accepts(schema, node, root):  # noqa: PLR0911
    """Whether a tree of YAML fits; of JSON Schema only what `policy.json_schema` writes."""
    if "$ref" in schema:
        return accepts(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], node, root)
    if "anyOf" in schema:
        return any(accepts(one, node, root) for one in schema["anyOf"])
    if "enum" in schema:
        return isinstance(node, Scalar) and node.text in map(str, schema["enum"])
    kind = schema["type"]
    if kind == "object":
        if not isinstance(node, Mapping):
            return False
        names = {key.text for key, _ in node.entries}
        allowed = schema.get("propertyNames", {}).get("enum", names)
        properties, rest = schema.get("properties", {}), schema["additionalProperties"]
        return (
            names >= set(schema.get("required", []))
            and names <= set(allowed)
            and all(
                accepts(properties.get(key.text, rest), below, root)
                for key, below in node.entries
                if properties.get(key.text, rest) is not False
            )
            and (rest is not False or names <= set(properties))
        )
    if kind == "array":
        return isinstance(node, Listing) and all(
            accepts(schema["items"], item, root) for item in node.items
        )
    if not isinstance(node, Scalar):
        return False
    if kind == "string":
        return re.search(schema.get("pattern", ""), node.text) is not None
    number = json.loads(node.text) if re.fullmatch(r"-?\d+(\.\d+)?", node.text) else None
    return (
        number is not None
        and number >= schema.get("minimum", number)
        and number <= schema.get("maximum", number)
        and (kind == "number" or isinstance(number, int))
    )


@pytest.mark.parametrize("path", sorted((ROOT / "policies").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_shipped_policies_fit(path):
    schema = policy_schema()
    assert accepts(schema, read_document(path).root, schema)


@pytest.mark.parametrize(
    "name", ["everything-at-once", "missing-keys", "quoted-number", "extends", "slew-zero"]
)
def test_bad_policies_do_not_fit(name):
    schema = policy_schema()
    document = read_document(ROOT / f"tests/golden/policies/{name}.yaml")
    # A quoted number is text to JSON Schema and fits no pattern of a quantity.
    if name == "quoted-number":
        memory = schema["$defs"]["Ceiling"]["properties"]["below"]["anyOf"][1]
        assert re.search(memory["pattern"], "0.9") is None
        return
    assert not accepts(schema, document.root, schema)


def test_the_kind_selects_the_options():
    schema = config_schema({"knob": KnobRule}, {"slo": SloRules})
    sensor = schema["$defs"]["sensors"]
    assert sensor["properties"]["kind"]["enum"] == ["knob"]
    assert sensor["allOf"] == [
        {
            "if": {"properties": {"kind": {"const": "knob"}}, "required": ["kind"]},
            "then": {"$ref": "#/$defs/sensors.knob"},
        }
    ]
    options = schema["$defs"]["sensors.knob"]
    assert options["required"] == ["kind", "min", "max"]
    assert options["properties"]["kind"] == {"const": "knob"}
    pool = schema["$defs"]["PoolConfig"]["properties"]
    assert pool["sensors"]["items"] == {"$ref": "#/$defs/sensors"}
    assert pool["actuator"]["$ref"] == "#/$defs/actuator"
