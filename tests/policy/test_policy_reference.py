"""docs/policy.md says what is so: every key with its default, and examples that load."""

import re
from pathlib import Path

import pytest

from poolwright.policy.bind import collects, field_specs
from poolwright.policy.json_schema import policy_schema
from poolwright.policy.layers import Source
from poolwright.policy.load import bind_policy, check_layer, shipped_policies
from poolwright.policy.overrides import OverrideRule
from poolwright.policy.rules import KNOB_NAMES, Breach, Dependency, Guard, LoadFall
from poolwright.policy.schema import PRICES, Explore, KnobRule, PolicyFile
from poolwright.policy.tree import parse_document

TEXT = (Path(__file__).parents[2] / "docs/policy.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
SECTIONS = {
    "The file": PolicyFile,
    "knobs": KnobRule,
    "guard": Guard,
    "explore": Explore,
    "override": OverrideRule,
}
TABLES = {"load_fall": LoadFall, "dependency": Dependency, "breach": Breach}
NONE = ("none", "as below")


def rows(text):
    """Of the first table: key -> default."""
    table = re.search(r"\| key.*?\n\|[-|]+\n((?:\|.*\n)+)", text)
    found = [line.strip("|").split(" | ") for line in table[1].splitlines()]
    return {cells[0].strip(" `"): cells[2].strip() for cells in found}


def section(name):
    return re.search(rf"(?ms)^## {re.escape(name)}\n(.*?)(?=^## |\Z)", TEXT)[1]


def written(name, kind):
    """Key -> default as the JSON Schema has it."""
    definition = policy_schema()["$defs"]["Policy" if kind is PolicyFile else kind.__name__]
    found = {}
    for spec in field_specs(kind):
        if collects(spec):
            continue
        schema = definition["properties"].get(spec.name, {})
        default = schema.get("default")
        if spec.required:
            found[spec.name] = "required"
        elif hasattr(spec.default, "below"):
            found[spec.name] = f"`{spec.default.below:.0%}`"
        elif default in (None, [], {}):
            found[spec.name] = None
        else:
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            found[spec.name] = f"`{shown}`".replace("'", '"')
    return found


@pytest.mark.parametrize(
    ("text", "kind"),
    [(section(name), kind) for name, kind in SECTIONS.items()]
    + [(TEXT[TEXT.index(f"| key of `{name}`") :], kind) for name, kind in TABLES.items()],
    ids=[*SECTIONS, *TABLES],
)
def test_every_key_stands_with_its_default(text, kind):
    said, real = rows(text), written("", kind)
    assert list(said) == list(real)
    for key, default in real.items():
        assert said[key] in NONE if default is None else said[key] == default, key


def test_the_reference_names_all_knobs_prices_and_shipped_policies():
    for name in (*KNOB_NAMES, *PRICES, *(path.stem for path in shipped_policies().glob("*.yaml"))):
        assert f"`{name}`" in TEXT


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_loads(text, tmp_path):
    document = parse_document(text.encode(), str(tmp_path / "example.yaml"))
    if Source.of(document, tmp_path).is_layer:
        check_layer(document)
    else:
        assert bind_policy(document, tmp_path).sha256


def test_there_are_examples_of_everything():
    assert len(EXAMPLES) >= 6
    for key in ("prices", "relations", "quiet", "pin", "bounds", "freeze", "pressure", "extends"):
        assert any(f"{key}:" in example for example in EXAMPLES), key
