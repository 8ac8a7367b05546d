"""A reload: all policies or none, what is refused changes nothing, and every outcome is told.

Files, journal and core are real; the sensor and the actuator are those of `pools.World`.
"""

from pathlib import Path

import pytest
from pools import World

from poolwright.core.errors import PlantFault
from poolwright.core.model import Reason, setting
from poolwright.engine.build import Parts, build_policies
from poolwright.engine.reload import Reload, restart_needed
from poolwright.journal.query import JournalReader
from poolwright.policy.config import load_config

CONFIG = """\
version: 1
policies: policies.d
pools:
  - name: web
    policy: mine
    actuator: {kind: gunicorn, pidfile: /run/web.pid}
    sensors: [{kind: host}]
  - name: api
    policy: mine
    actuator: {kind: gunicorn, pidfile: /run/api.pid}
    sensors: [{kind: host}]
"""
POLICY = """\
version: 1
name: mine
mode: auto
knobs:
  workers: {min: 1, max: 16, slew: 4, settle: 2s}
objective: {latency_p99: 1.0, memory: 0.2}
slo:
  error_ratio: {below: 5%}
explore: {window: 5s, warmup: 2}
"""
BROKEN = POLICY.replace("min: 1", "min: 20").replace("slo:", "sol:")


class Host:
    """Two pools under one configuration, without a loop: `reload` and `tick` are called."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.file = self.folder / "policies.d" / "mine.yaml"
        self.file.parent.mkdir()
        self.file.write_text(POLICY)
        self.config_file = self.folder / "poolwright.yaml"
        self.config_file.write_text(CONFIG)
        config = load_config(self.config_file)
        self.woken = 0
        self.reload = Reload(self.config_file, config, self._wake)
        policies = build_policies(config)
        self.worlds = {
            name: World(self.folder / f"{name}.db", policy, name=name)
            for name, policy in policies.items()
        }
        for world in self.worlds.values():
            # every signal that the policy and the guard need
            world.sensor.signals = tuple({r.signal for r in world.sensor.seen()})
        self.pools = {name: world.pool for name, world in self.worlds.items()}
        self.parts = [
            Parts(
                name=name,
                policy=world.policy,
                sensors=(world.sensor,),
                actuator=world.actuator,
            )
            for name, world in self.worlds.items()
        ]
        self.reload.follow(policies.values())

    def _wake(self):
        self.woken += 1

    async def tick(self):
        return {name: await world.tick() for name, world in self.worlds.items()}

    async def act(self):
        await self.reload.act(self.pools, self.parts)

    @property
    def counts(self):
        return dict(self.reload.counts)

    @property
    def in_force(self):
        """What a refusal must not change."""
        return [(p.run_id, p.policy, p.controller, p._index) for p in self.pools.values()]

    def notes(self, pool, kind):
        with JournalReader(self.worlds[pool].path) as reader:
            return [n for n in reader.notes() if n.kind == kind]

    def close(self):
        for world in self.worlds.values():
            world.journal.close()


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path)
    yield made
    made.close()


async def test_an_edit_is_in_force_in_the_next_tick_and_told_as_a_diff(host, caplog):
    caplog.set_level("INFO")
    await host.tick()
    old = host.pools["web"].policy
    host.file.write_text(POLICY.replace("min: 1, max: 16", "min: 5, max: 8"))
    await host.act()
    decisions = await host.tick()
    for decision in decisions.values():
        assert (decision.tick, decision.reason) == (0, Reason.OUT_OF_BOUNDS)
        assert decision.setting == setting(workers=5)
    new = host.pools["web"].policy
    (note,) = host.notes("web", "policy")
    assert note.run == host.pools["web"].run_id
    assert note.text.splitlines() == [
        f"policy mine sha256 {old.sha256} -> mine sha256 {new.sha256}",
        "knobs.workers.min: 1 -> 5",
        "knobs.workers.max: 16 -> 8",
    ]
    assert old.sha256 != new.sha256
    assert "web:   knobs.workers.min: 1 -> 5" in caplog.messages
    assert host.counts == {"applied": 1, "refused": 0, "unchanged": 0}
    assert host.reload.error == ""


async def test_a_broken_file_changes_nothing_and_every_problem_is_told(host, caplog):
    await host.tick()
    before = host.in_force
    host.file.write_text(BROKEN)
    await host.act()
    assert host.in_force == before
    problems = host.reload.error.splitlines()
    assert any(f"{host.file}:7:1: unknown key 'sol'" in p for p in problems), problems
    assert any(f"{host.file}:5:" in p for p in problems), problems
    assert [m.strip() for m in caplog.messages] == [
        "reload refused, the old policies stay:",
        *problems,
    ]
    for name in host.pools:
        (note,) = host.notes(name, "policy_refused")
        assert note.text == host.reload.error
    assert host.counts == {"applied": 0, "refused": 1, "unchanged": 0}
    host.file.write_text(POLICY)
    await host.act()
    assert host.reload.error == "", "what is on disk is in force again"
    assert host.in_force == before
    assert host.counts == {"applied": 0, "refused": 1, "unchanged": 1}


async def test_one_bad_pool_keeps_all_at_the_old_policy(host):
    """The policy of `web` is good and new, that of `api` does not suit its actuator."""
    before = host.in_force
    other = host.file.with_name("other.yaml")
    other.write_text(POLICY.replace("name: mine", "name: other").replace("workers:", "threads:"))
    host.file.write_text(POLICY.replace("max: 16", "max: 8"))
    config = CONFIG.replace("name: api\n    policy: mine", "name: api\n    policy: other")
    host.config_file.write_text(config)
    await host.act()
    assert "pool api: policy other has the knobs threads" in host.reload.error
    assert host.in_force == before


async def test_a_journal_that_is_full_for_one_pool_keeps_all_at_the_old_policy(host, monkeypatch):
    before = host.in_force

    def full(*_args):
        raise PlantFault("api.db: no space left on device")

    monkeypatch.setattr(host.worlds["api"].journal, "begin_run", full)
    host.file.write_text(POLICY.replace("max: 16", "max: 8"))
    await host.act()
    assert host.in_force == before
    assert host.reload.error == "api.db: no space left on device"
    for _ in range(3):
        await host.tick()
    monkeypatch.undo()
    await host.act()
    assert {p.policy.knobs[0].upper for p in host.pools.values()} == {8}


async def test_what_says_the_same_in_other_words_is_unchanged(host, caplog):
    caplog.set_level("INFO")
    await host.tick()
    before = host.in_force
    host.file.write_text("# a comment\n" + POLICY.replace("5%", "0.05").replace("2s", "2000ms"))
    await host.act()
    assert host.in_force == before
    assert host.notes("web", "policy") == []
    assert "reloaded: unchanged" in caplog.messages
    assert host.counts == {"applied": 0, "refused": 0, "unchanged": 1}


async def test_only_the_pool_whose_policy_changed_gets_a_run_of_its_own(host):
    runs = {name: pool.run_id for name, pool in host.pools.items()}
    layer = 'version: 1\npools: ["ap*"]\nknobs: {workers: {max: 8}}\n'
    host.file.with_name("50-api.yaml").write_text(layer)
    await host.act()
    assert host.reload.error == ""
    assert host.pools["web"].run_id == runs["web"]
    assert host.pools["api"].run_id != runs["api"]
    assert [p.policy.knobs[0].upper for p in host.pools.values()] == [16, 8]


async def test_pools_that_come_and_go_wait_for_a_restart_and_the_others_do_not(host, caplog):
    text = CONFIG.replace("name: api", "name: new").replace("kind: host", "kind: power")
    host.config_file.write_text(text)
    host.file.write_text(POLICY.replace("max: 16", "max: 8"))
    await host.act()
    assert host.reload.error == ""
    assert host.pools["web"].policy.knobs[0].upper == 8
    assert host.pools["api"].policy.knobs[0].upper == 16, "gone, and as it was"
    assert [m for m in caplog.messages if m.endswith("that takes a restart")] == [
        "pool new is new: that takes a restart",
        "the sensors of pool web have changed: that takes a restart",
        "pool api is gone, and goes on as it is: that takes a restart",
    ]


async def test_another_cadence_is_one_for_all_pools(host):
    host.config_file.write_text(CONFIG.replace("name: api", "name: new") + "cadence: 500ms\n")
    await host.act()
    assert {p.policy.cadence_s for p in host.pools.values()} == {0.5}


def test_what_takes_a_restart_is_told_by_what_it_says_not_by_where_it_stands(tmp_path):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(CONFIG)
    new.write_text("# moved\n\n" + CONFIG.replace("{kind: host}", "{kind: host   }"))
    assert restart_needed(load_config(old), load_config(new)) == []
    new.write_text(CONFIG.replace("/run/api.pid", "/run/b.pid") + "listen: null\nwatch: false\n")
    assert restart_needed(load_config(old), load_config(new)) == [
        "listen has changed",
        "watch has changed",
        "the actuator of pool api has changed",
    ]


async def test_it_asks_for_a_reload_once_when_a_file_is_not_what_was_read(host):
    host.reload.look()
    assert not host.reload.asked
    host.file.write_text(BROKEN)
    host.reload.look()
    assert host.reload.asked
    assert host.woken == 1
    await host.act()
    host.reload.look()
    assert not host.reload.asked, "refused once is enough"
    host.config_file.write_text(CONFIG + "# more\n")
    host.reload.look()
    assert host.reload.asked


async def test_a_change_while_it_reads_is_seen_again(host, monkeypatch):
    host.file.write_text(POLICY.replace("max: 16", "max: 8"))
    real = host.pools["api"].prepare

    def meanwhile(policy):
        host.file.write_text(POLICY.replace("max: 16", "max: 4"))
        return real(policy)

    monkeypatch.setattr(host.pools["api"], "prepare", meanwhile)
    await host.act()
    assert host.pools["web"].policy.knobs[0].upper == 8
    host.reload.look()
    assert host.reload.asked


async def test_every_file_in_use_is_followed_wherever_it_lies(host):
    """A pool may name its policy by path, and a shipped policy may be extended."""
    own = host.folder / "elsewhere" / "own.yaml"
    host.config_file.write_text(CONFIG.replace("policy: mine", "policy: elsewhere/own.yaml", 1))
    await host.act()
    assert "own.yaml" in host.reload.error
    assert own in host.reload.places(), "also while it does not exist"
    own.parent.mkdir()
    own.write_text(POLICY.replace("max: 16", "max: 8"))
    host.reload.look()
    assert host.reload.asked
    await host.act()
    assert host.reload.error == ""
    assert host.pools["web"].policy.knobs[0].upper == 8
    extends = "version: 1\nname: mine\nextends: balanced\nexplore: {window: 5s, warmup: 2}\n"
    host.file.write_text(extends)
    await host.act()
    sources = {Path(s).name for s in host.pools["api"].policy.sources}
    assert sources == {"mine.yaml", "balanced.yaml"}
    assert "balanced.yaml" in {p.name for p in host.reload.places()}
    host.reload.look()
    assert not host.reload.asked, "what it follows from now on is what it has read"


async def test_what_cannot_be_read_is_refused(host):
    before = host.in_force
    host.file.unlink()
    host.file.mkdir()
    await host.act()
    assert str(host.file) in host.reload.error
    assert host.in_force == before


async def test_a_bug_in_reading_is_a_refusal_and_not_the_end(host, monkeypatch, caplog):
    def bug(_config):
        raise AssertionError("ours")

    before = host.in_force
    monkeypatch.setattr("poolwright.engine.reload.build_policies", bug)
    await host.act()
    assert host.reload.error == f"{host.config_file}: AssertionError: ours"
    assert "Traceback" in caplog.text
    assert host.in_force == before


async def test_what_is_not_in_use_any_more_is_not_looked_at(host):
    """Nor does a refusal that has made other places matter ask again by itself."""
    own = host.folder / "own.yaml"
    own.write_text(POLICY)
    host.config_file.write_text(CONFIG.replace("policy: mine", "policy: ./own.yaml"))
    for edit in (lambda: None, lambda: host.config_file.write_text(CONFIG)):
        edit()
        await host.act()
        assert host.reload.error == ""
        host.reload.look()
        assert not host.reload.asked
    own.unlink()
    host.reload.look()
    assert not host.reload.asked
    host.config_file.write_text(CONFIG.replace("policy: mine", "policy: ./absent.yaml"))
    await host.act()
    assert host.reload.error
    host.reload.look()
    assert not host.reload.asked


async def test_a_layer_that_goes_while_it_reads_is_missed_afterwards(host, monkeypatch):
    layer = host.file.with_name("50-all.yaml")
    layer.write_text('version: 1\npools: ["*"]\nknobs: {workers: {max: 8}}\n')
    real = host.pools["api"].prepare

    def meanwhile(policy):
        layer.unlink()
        return real(policy)

    monkeypatch.setattr(host.pools["api"], "prepare", meanwhile)
    await host.act()
    assert host.pools["web"].policy.knobs[0].upper == 8
    host.reload.look()
    assert host.reload.asked


async def test_the_configuration_itself_may_be_broken(host):
    before = host.in_force
    host.config_file.write_text(CONFIG.replace("pools:", "polls:"))
    await host.act()
    assert f"{host.config_file}:3:1" in host.reload.error
    assert host.in_force == before
    host.config_file.unlink()
    await host.act()
    assert "poolwright.yaml" in host.reload.error
    assert host.in_force == before


async def test_two_requests_at_once_are_one_reload(host):
    host.reload.ask()
    host.reload.ask()
    await host.act()
    assert not host.reload.asked
    assert host.counts["unchanged"] == 1
