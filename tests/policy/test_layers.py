"""Policies made of several files: what extends what, what lies over what, and whose word counts."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.policy import Mode
from poolwright.policy.layers import lay_over
from poolwright.policy.library import Effective, Library, shipped_policies
from poolwright.policy.load import bind_policy, load_policy, resolve
from poolwright.policy.render import policy_text
from poolwright.policy.tree import Listing, Mapping, Mark, Scalar, parse_document

WEB = """\
version: 1
name: web
knobs:
  workers: {min: 2, max: 16}
objective: {latency_p99: 1.0, power: 0.3}
slo:
  latency_p99: {below: 250ms, confidence: 0.9}
guard:
  breach: {ticks: 2, of: 4}
explore: {quiet: ["daily 01:00-02:00 UTC"]}
"""


@pytest.fixture
def folder(tmp_path):
    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


def layer(pools, text):
    return f'version: 1\npools: ["{pools}"]\n{text}\n'


def test_a_layer_changes_what_it_says_and_nothing_else(folder):
    path = folder(
        web=WEB, site=layer("w*", "slo: {latency_p99: {below: 100ms}}\nguard: {breach: {of: 5}}")
    )
    alone, layered = load_policy(path / "web.yaml"), resolve("web", "web", path)
    assert (layered.slo[0].below, layered.slo[0].confidence) == (0.1, 0.9)
    assert (layered.guard.breach_ticks, layered.guard.breach_of_ticks) == (2, 5)
    assert layered.knobs == alone.knobs
    assert layered.name == "web"
    assert layered.sources == (str(path / "web.yaml"), str(path / "site.yaml"))
    assert layered.sha256 != alone.sha256


def test_layers_lie_over_the_pools_that_they_name(folder):
    path = folder(
        web=WEB,
        a=layer("api", "mode: auto"),
        b=layer("web-?", "mode: auto"),
        c=layer("*", "seed: 3"),
    )
    found = {pool: resolve(pool, "web", path) for pool in ("web", "web-1", "web-12", "api")}
    assert [p.mode for p in found.values()] == [
        Mode.RECOMMEND, Mode.AUTO, Mode.RECOMMEND, Mode.AUTO
    ]  # fmt: skip
    assert {p.seed for p in found.values()} == {3}


def test_later_names_lie_over_earlier_ones(folder):
    path = folder(
        web=WEB,
        **{"90-last": layer("*", "seed: 90"), "10-first": layer("*", "seed: 10\ncadence: 2s")},
    )
    policy = resolve("web", "web", path)
    assert (policy.seed, policy.cadence_s) == (90, 2.0)


def test_null_takes_away_and_a_later_layer_gives_anew(folder):
    path = folder(
        web=WEB,
        a=layer("*", "objective: {power: null}\nslo: null\nguard: {memory: null}\nexplore: null"),
        b=layer("*", "slo: {error_ratio: {below: 2%}}"),
    )
    policy = resolve("web", "web", path)
    assert policy.objective == (("latency_p99_s", 1.0),)
    assert [slo.response for slo in policy.slo] == ["error_ratio"]
    assert policy.explore.quiet == ()


def test_overrides_and_relations_add_up_and_other_lists_are_replaced(folder):
    path = folder(
        web=WEB + 'relations: ["workers <= 14"]\noverride: [{freeze: true, reason: a}]\n',
        site=layer(
            "*",
            'relations: ["workers >= 3"]\noverride: [{bounds: {workers: {max: 9}}, reason: b}]\n'
            'explore: {quiet: ["daily 03:00-04:00 UTC"]}',
        ),
    )
    policy = resolve("web", "web", path)
    assert [relation.text for relation in policy.relations] == ["workers <= 14", "workers >= 3"]
    assert [override.reason for override in policy.overrides] == ["a", "b"]
    assert policy.explore.quiet == ("daily 03:00-04:00 UTC",)


def test_overrides_are_for_the_pools_that_they_name(folder):
    rules = (
        "override:\n  - {pools: [web], pin: {workers: 4}, reason: a}\n"
        '  - {pools: ["api*"], pin: {workers: 5}, reason: b}\n'
        "  - {bounds: {workers: {max: 9}}, reason: c}\n"
    )
    path = folder(web=WEB + rules)
    reasons = {pool: [o.reason for o in resolve(pool, "web", path).overrides]
               for pool in ("web", "api-2", "other")}  # fmt: skip
    assert reasons == {"web": ["a", "c"], "api-2": ["b", "c"], "other": ["c"]}
    assert resolve("web", "web", path).sha256 != resolve("other", "web", path).sha256


def test_overrides_of_globs_clash_where_both_match_a_pool(folder):
    rules = (
        'override:\n  - {pools: ["we*"], pin: {workers: 4}, reason: a}\n'
        '  - {pools: ["*b"], pin: {workers: 5}, reason: b}\n'
    )
    path = folder(web=WEB + rules)
    load_policy(path / "web.yaml")  # no pool is known to be in both
    assert len(resolve("weather", "web", path).overrides) == 1
    with pytest.raises(PolicyError, match=r"yaml:13:36: override\[1\].*pins workers.*yaml:12:5"):
        resolve("web", "web", path)


def test_a_policy_extends_another_of_the_folder_or_a_shipped_one(folder):
    path = folder(
        site="version: 1\nname: site\nextends: balanced\nknobs: {workers: {max: 24}}\n",
        web="version: 1\nname: web\nextends: site\nmode: auto\n",
    )
    for policy in (load_policy(path / "web.yaml"), resolve("any", "web", path)):
        assert (policy.name, policy.mode, policy.knobs[0].upper) == ("web", "auto", 24)
        assert policy.guard.cpu_ratio == 0.95
        assert [Path(source).name for source in policy.sources] == [
            "balanced.yaml", "site.yaml", "web.yaml"
        ]  # fmt: skip


def test_an_own_policy_may_extend_the_shipped_one_of_its_name(folder):
    path = folder(balanced="version: 1\nname: balanced\nextends: balanced\nmode: auto\n")
    policy = resolve("web", "balanced", path)
    assert (policy.mode, policy.guard.cpu_ratio) == (Mode.AUTO, 0.95)


def test_what_is_shipped_does_not_extend_what_an_operator_calls_the_same(folder):
    path = folder(balanced="version: 1\nname: balanced\nextends: balanced\nmode: auto\n")
    assert resolve("web", "autoscale", path).mode is Mode.RECOMMEND


def test_a_policy_given_by_its_path_has_the_layers_of_the_folder(folder, tmp_path_factory):
    path = folder(site=layer("web", "seed: 3"))
    other = tmp_path_factory.mktemp("other") / "mine.yaml"
    other.write_text(WEB)
    assert resolve("web", str(other), path).seed == 3
    assert resolve("api", str(other), path).seed == 0


def test_the_name_counts_and_not_the_files(folder):
    path = folder(**{"50-some-file": WEB.replace("name: web", "name: mine")})
    assert resolve("web", "mine", path).name == "mine"
    with pytest.raises(PolicyError, match="pool web: policy '50-some-file' does not exist"):
        resolve("web", "50-some-file", path)


def test_the_daemons_own_configuration_may_lie_beside_the_policies(folder):
    path = folder(
        web=WEB,
        poolwright="version: 1\npools:\n  - {name: web, actuator: {kind: gunicorn}, sensors: []}\n",
    )
    assert resolve("web", "web", path).sources == (str(path / "web.yaml"),)


def test_a_layer_that_looks_a_little_like_a_configuration_is_not_passed_over(folder):
    path = folder(web=WEB, site="version: 1\npools: [{name: web}]\njournal: j.db\n")
    with pytest.raises(PolicyError) as caught:
        resolve("web", "web", path)
    assert "site.yaml:2:9: pools[0]: is a mapping; one value is wanted" in str(caught.value)
    assert "site.yaml:3:1: unknown key 'journal'" in str(caught.value)


def test_a_circle_is_found_by_whatever_path_one_enters_it(folder, monkeypatch):
    path = folder(
        web="version: 1\nname: web\nextends: site\n",
        site="version: 1\nname: site\nextends: web\n",
    )
    monkeypatch.chdir(path)
    for enter in (lambda: load_policy(Path("web.yaml")), lambda: resolve("a", "./web.yaml", path)):
        with pytest.raises(PolicyError, match=r"a circle: web extends site extends web$"):
            enter()


def test_a_layer_is_no_policy(folder):
    path = folder(site=layer("*", "seed: 3"))
    with pytest.raises(PolicyError, match=r"site\.yaml:1:1: this is a layer"):
        load_policy(path / "site.yaml")


def test_a_file_that_cannot_be_read_stops_all(folder):
    path = folder(web=WEB)
    (path / "site.yaml").mkdir()
    with pytest.raises(PlantFault, match=r"site\.yaml: cannot be read"):
        resolve("web", "web", path)


def test_a_problem_of_several_pools_is_told_once_with_all_of_them(folder):
    path = folder(web=WEB, site=layer("*", "knobs: {workers: {max: 1}}"))
    library = Library(path)
    library.look_over_folder()
    assert [library.effective("web", pool) for pool in ("web", "api")] == [None, None]
    with pytest.raises(PolicyError) as caught:
        library.check()
    said = str(caught.value)
    assert said.count("\n") == 0
    assert said.endswith("2 is more than max, 1; see " + f"{path}/site.yaml:3:24 (pools web, api)")


def test_what_a_layer_gets_wrong_is_told_though_a_later_one_replaces_it(folder):
    path = folder(web=WEB, a=layer("*", "cadence: 1"), b=layer("*", "cadence: 1s"))
    with pytest.raises(PolicyError, match=r"a\.yaml:3:10: cadence: '1' has no unit"):
        resolve("web", "web", path)


def test_layers_and_overrides_for_nobody_are_known(folder):
    path = folder(
        web=WEB + "override: [{pools: [wob], freeze: true, reason: a}]\n",
        a=layer("web*", "seed: 1"),
        b=layer("wbe*", "seed: 2"),
    )
    first, second = Library(path).unmatched(("web", "api"))
    assert first == f"{path}/b.yaml:2:8: this layer is for no pool of this configuration"
    assert second == f"{path}/web.yaml:11:12: an override for wob: no pool of this configuration"


def test_every_shipped_policy_is_called_as_its_file():
    for path in shipped_policies().glob("*.yaml"):
        assert load_policy(path).name == path.stem


LINES = st.lists(
    st.sampled_from(
        [
            "extends: balanced", "name: web", "pools: [web]", "pools: web", "mode: auto",
            "knobs: {workers: {max: 3}}", "knobs: {workers: {min: 9}, threads: {min: 1, max: 2}}",
            "knobs: null", "knobs: []", "relations: ['workers <= 4']", "relations: [workers <= 1]",
            "relations: null", "override: [{pin: {workers: 4}, reason: a}]",
            "override: [{freeze: true, reason: b}, 3]", "override: {pin: 4}",
            "override: [{bounds: {workers: {max: 3}}, pools: ['w*'], reason: c}]",
            "slo: {latency_p99: null, latency_p90: {below: 1s}}", "slo: {latency_p99: 3}",
            "objective: {cost: 1}", "objective: {latency_p99: null}", "prices: {kwh: 1}",
            "explore: {quiet: [daily 01:00-02:00 UTC], window: 3s}", "explore: {window: null}",
            "guard: {pressure: {cpu: {below: 3%}}, breach: {ticks: 9}}", "guard: ~", "version: 1",
        ]
    ),
    max_size=6,
    unique_by=lambda line: line.partition(":")[0],
).map("\n".join)  # fmt: skip


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(LINES, LINES)
def test_any_layers_give_a_policy_or_say_where_they_are_wrong(folder, one, two):
    path = folder(web=WEB, a=f"{one}\n", b=f"{two}\n")
    try:
        policy = resolve("web", "web", path)
    except PolicyError as error:
        for line in str(error).splitlines():
            assert re.match(rf"({path}|{shipped_policies()})/[a-z-]+\.yaml:\d+:\d+: ", line), line
        return
    assert policy.name == "web"
    assert bind_policy(parse_document(policy_text_of(policy), "f"), path).sha256 == policy.sha256


def policy_text_of(policy):
    return policy_text(Effective(policy, Mapping(Mark("", 0, 0), ()))).encode()


def scalars(texts):
    return st.builds(Scalar, st.just(Mark("", 0, 0)), texts, st.just(True))


def mark_all(node, file):
    """The same tree as if written in `file`."""
    mark = Mark(file, 1, 1)
    if isinstance(node, Mapping):
        return Mapping(mark, tuple((mark_all(k, file), mark_all(n, file)) for k, n in node.entries))
    if isinstance(node, Listing):
        return Listing(mark, tuple(mark_all(item, file) for item in node.items))
    return Scalar(mark, node.text, node.plain)


VALUES = scalars(st.sampled_from(["1", "2", "null"]))
KEYS = st.sampled_from(["knobs", "override", "a", "b"])


def mappings(inner):
    return st.dictionaries(KEYS, inner, max_size=4).map(
        lambda found: Mapping(
            Mark("", 0, 0),
            tuple((Scalar(Mark("", 0, 0), key, plain=True), node) for key, node in found.items()),
        )
    )


LISTS = st.lists(VALUES, max_size=2).map(lambda items: Listing(Mark("", 0, 0), tuple(items)))
TREES = mappings(VALUES | LISTS | mappings(VALUES | LISTS | mappings(VALUES)))


@given(TREES, TREES, TREES)
def test_laying_over_is_associative(one, two, three):
    a, b, c = (mark_all(tree, name) for tree, name in ((one, "a"), (two, "b"), (three, "c")))
    assert lay_over(lay_over(a, b), c) == lay_over(a, lay_over(b, c))


@given(TREES)
def test_an_empty_layer_changes_nothing(tree):
    assert lay_over(tree, Mapping(Mark("x", 1, 1), ())) == tree


@given(TREES, TREES)
def test_every_value_of_the_upper_tree_is_in_the_whole(lower, upper):
    whole = lay_over(mark_all(lower, "lower"), mark_all(upper, "upper"))
    for key, node in upper.entries:
        found = whole.get(key.text)
        if isinstance(node, Scalar):
            assert found == mark_all(node, "upper")
        if isinstance(node, Listing) and key.text == "override" and not isinstance(found, Scalar):
            assert (
                found.items[len(found.items) - len(node.items) :] == mark_all(node, "upper").items
            )
