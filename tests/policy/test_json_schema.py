"""The JSON Schema: it says what the binder does, and the shipped copy is current."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from some_policies import policies
from test_policy_load import EVERY_KEY

from poolwright.core.errors import PolicyError
from poolwright.core.signals import RESPONSE_NAMES
from poolwright.policy.bind import field_specs
from poolwright.policy.json_schema import config_schema, policy_schema
from poolwright.policy.library import Effective
from poolwright.policy.overrides import OverrideRule
from poolwright.policy.quantities import PATTERNS
from poolwright.policy.render import policy_text
from poolwright.policy.rules import Guard, SloRules
from poolwright.policy.schema import Explore, KnobRule, PolicyFile
from poolwright.policy.tree import Listing, Mapping, Mark, Scalar, parse_document, read_document

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/policies"
SHIPPED = ROOT / "config/schema/policy.schema.json"


def test_the_shipped_schema_is_current():
    assert json.loads(SHIPPED.read_text()) == policy_schema(), (
        "poolwright schema policy > config/schema/policy.schema.json"
    )


def test_every_reference_leads_somewhere_and_nothing_else_is_allowed():
    schema = policy_schema()
    text = json.dumps(schema)
    assert set(re.findall(r'#/\$defs/([^"]+)', text)) == set(schema["$defs"])
    for definition in schema["$defs"].values():
        assert definition["additionalProperties"] is False


def test_every_pattern_is_a_regular_expression_of_both_worlds():
    """ECMA 262 has no look-behind by name, no (?s), no \\Z; what is used is common to both."""
    text = json.dumps(policy_schema())
    patterns = [json.loads(f'"{found}"') for found in re.findall(r'"pattern": "([^"]+)"', text)]
    assert len(patterns) > 20
    for pattern in patterns:
        assert re.compile(pattern)
        assert not re.search(r"\(\?[^:=!]|\\[AZz]", pattern), pattern


def test_every_field_is_there_with_a_description():
    definitions = policy_schema()["$defs"]
    for kind, name in ((PolicyFile, "Policy"), (KnobRule, "KnobRule"), (Explore, "Explore"),
                       (Guard, "Guard"), (OverrideRule, "OverrideRule")):  # fmt: skip
        properties = definitions[name]["properties"]
        of_files = {"extends", "pools"} if kind is PolicyFile else set()
        fields = [spec.name for spec in field_specs(kind) if spec.name not in of_files]
        assert list(properties) == fields
        assert all(p["description"] for p in properties.values())
    assert list(definitions["SloRules"]["properties"]) == ["jitter", "error_ratio"]
    (like,) = definitions["SloRules"]["patternProperties"]
    assert re.search(like, "latency_p99.9")
    assert not re.search(like, "latency_p100")


def test_the_rules_of_fields_are_in_it():
    definitions = policy_schema()["$defs"]
    knob = definitions["KnobRule"]["properties"]
    assert knob["min"]["minimum"] == 1
    assert knob["settle"] == {
        "description": knob["settle"]["description"],
        "type": "string",
        "pattern": PATTERNS["duration"],
        "default": "3s",
    }
    whole = definitions["Policy"]["properties"]
    names, like = whole["objective"]["propertyNames"]["anyOf"]
    assert names["enum"] == list(RESPONSE_NAMES)
    assert re.search(like["pattern"], "latency_p90")
    assert whole["mode"]["enum"] == ["observe", "recommend", "auto"]
    assert whole["explore"] == {
        "description": "how much may be tried", "$ref": "#/$defs/Explore"
    }  # fmt: skip


def test_a_file_must_be_whole_unless_it_extends_or_is_a_layer():
    definitions = policy_schema()["$defs"]
    assert definitions["Policy"]["required"] == ["version", "name", "knobs", "objective"]
    assert definitions["KnobRule"]["required"] == ["min", "max"]
    assert definitions["Extension"]["required"] == ["version", "name", "extends"]
    assert definitions["Layer"]["required"] == ["version", "pools"]
    assert "required" not in definitions["KnobRulePart"]
    assert definitions["OverrideRule"]["required"] == ["reason"]


def fits_number(schema, node):
    found = (
        re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?", node.text) if node.plain else None
    )
    if found is None:
        return False
    number = json.loads(node.text)
    return (
        schema.get("minimum", number) <= number <= schema.get("maximum", number)
        and number > schema.get("exclusiveMinimum", number - 1)
        and number < schema.get("exclusiveMaximum", number + 1)
        and (schema["type"] == "number" or isinstance(number, int))
    )


def fits_object(schema, node, root):
    if not isinstance(node, Mapping):
        return False
    names = [key.text for key, _ in node.entries]
    of_names = schema.get("propertyNames", {})
    if of_names and not all(
        any(n in o.get("enum", ()) or ("pattern" in o and re.search(o["pattern"], n))
            for o in of_names.get("anyOf", [of_names]))
        for n in names
    ):  # fmt: skip
        return False
    if not set(schema.get("required", ())) <= set(names):
        return False
    if len(names) < schema.get("minProperties", 0):
        return False
    for key, below in node.entries:
        like = [s for p, s in schema.get("patternProperties", {}).items() if re.search(p, key.text)]
        own = schema.get("properties", {}).get(key.text)
        of_key = [*like, own] if own is not None else like or [schema["additionalProperties"]]
        if not all(one is not False and accepts(one, below, root) for one in of_key):
            return False
    return True


def accepts(schema, node, root):  # noqa: PLR0911
    """Whether a tree of YAML fits; of JSON Schema only what `policy.json_schema` writes."""
    if "if" in schema:
        (key,) = schema["if"]["required"]
        there = isinstance(node, Mapping) and node.get(key) is not None
        return accepts(schema["then" if there else "else"], node, root)
    if "$ref" in schema:
        return accepts(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], node, root)
    if "anyOf" in schema:
        return any(accepts(one, node, root) for one in schema["anyOf"])
    if "enum" in schema:
        return isinstance(node, Scalar) and node.text in map(str, schema["enum"])
    kind = schema["type"]
    if kind == "object":
        return fits_object(schema, node, root)
    if kind == "array":
        return (
            isinstance(node, Listing)
            and len(node.items) >= schema.get("minItems", 0)
            and all(accepts(schema["items"], item, root) for item in node.items)
        )
    if not isinstance(node, Scalar):
        return False
    if kind == "null":
        return node.is_null
    if kind == "boolean":
        return node.plain and node.text in ("true", "false")
    if kind == "string":
        return not node.is_null and re.search(schema.get("pattern", ""), node.text) is not None
    return fits_number(schema, node)


@pytest.mark.parametrize("path", sorted((ROOT / "policies").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_shipped_policies_fit(path):
    schema = policy_schema()
    assert accepts(schema, read_document(path).root, schema)


def test_what_the_reference_shows_fits():
    schema = policy_schema()
    document = parse_document(EVERY_KEY.encode(), "f")
    assert accepts(schema, document.root, schema)


@settings(deadline=None, max_examples=30)
@given(policies())
def test_what_can_be_written_fits(policy):
    schema = policy_schema()
    text = policy_text(Effective(policy, Mapping(Mark("", 0, 0), ())))
    assert accepts(schema, parse_document(text.encode(), "f").root, schema)


# What one file's form cannot say: fields against each other, other files, and YAML itself.
BEYOND = {
    "baseline-off-lattice", "baseline-outside", "breach-more-than-ticks", "cost-without-prices",
    "holdout-too-often", "max-off-lattice", "min-above-max", "objective-all-zero",
    "override-against-relation", "override-freeze-and-pin", "override-levels",
    "override-none-or-several", "override-pin-and-bounds", "override-pins-overlap",
    "relation-baseline", "relation-never", "relation-unknown-knob", "relations-together",
    "settle-longer-than-window", "slew-below-step", "window-under-two-ticks",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda p: p.stem)
def test_what_the_binder_refuses_of_a_single_value_does_not_fit(path):
    if path.stem.startswith("config-"):
        return
    schema = policy_schema()
    try:
        document = read_document(path)
        document.problems.check()
    except PolicyError:
        return  # no YAML, or not ours
    assert accepts(schema, document.root, schema) is (path.stem in BEYOND)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("version: 1\nname: a\nextends: balanced\n", True),
        ("version: 1\nname: a\nextends: balanced\nknobs: {workers: {max: 3}}\n", True),
        ("version: 1\nname: a\nextends: balanced\nslo: {latency_p99: null}\n", True),
        ("version: 1\nname: a\nextends: balanced\nslo: {latency_p99: 3s}\n", False),
        ("version: 1\nname: a\nextends: balanced\npools: [a]\n", False),
        ("version: 1\npools: ['web-*']\nguard: {memory: {below: null}}\n", True),
        ("version: 1\npools: ['web-*']\noverride: [{freeze: true}]\n", False),
        ("version: 1\npools: ['web-*']\noverride: [{freeze: true, reason: x}]\n", True),
        ("version: 1\npools: []\n", False),
        ("version: 1\npools: ['Web']\n", False),
        ("pools: [web]\n", False),
    ],
)
def test_extensions_and_layers(text, fits):
    schema = policy_schema()
    assert accepts(schema, parse_document(text.encode(), "f").root, schema) is fits


@pytest.mark.parametrize("path", sorted((ROOT / "policies").glob("*.yaml")), ids=lambda p: p.stem)
def test_editors_find_the_schema_of_a_shipped_policy(path):
    found = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
    assert (path.parent / found[1]).resolve() == SHIPPED


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
