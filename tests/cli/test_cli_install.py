"""`poolwright install` into a tree: what it chooses, keeps, updates, removes and refuses."""

import shutil
from pathlib import Path

import pytest

from poolwright.cli.install_files import _ACTUATORS, _SENSORS, OPT_IN
from poolwright.cli.main import main
from poolwright.cli.main import parser as parser_of

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "systemd" / "poolwright.service.d"
GROUPS = ("adm", "haproxy", "ops", "postgres", "www-data")
CONFIG = """version: 1
pools:
  - name: jobs
    actuator: {kind: systemd_units, template: worker@.service}
    sensors: [{kind: host}]
"""


@pytest.fixture
def tree(tmp_path):
    """A tree with the groups of a host, and what it holds as path -> text."""
    root = tmp_path / "root"
    (root / "etc" / "poolwright").mkdir(parents=True)
    (root / "etc/group").write_text("".join(f"{name}:x:900:\n" for name in GROUPS))
    (root / "etc/passwd").write_text("www-data:x:33:33::/:/bin/false\n")
    return root


def config(tree, text):
    (tree / "etc/poolwright/poolwright.yaml").write_text(text)


def install(tree, *words):
    return main(["install", "--root", str(tree), *words])


def held(tree):
    return {str(p.relative_to(tree)): p.read_text() for p in sorted(tree.rglob("*")) if p.is_file()}


def dropins(tree, unit="poolwright.service"):
    return [p.stem for p in sorted((tree / f"etc/systemd/system/{unit}.d").glob("*.conf"))]


def with_pool(actuator, *sensors, more=""):
    listed = "".join(f"      - {one}\n" for one in sensors or ("{kind: host}",))
    return (
        f"version: 1\n{more}pools:\n  - name: web\n    actuator: {actuator}\n    sensors:\n{listed}"
    )


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tree, capsys):
    shutil.copy(ROOT / "config/poolwright.yaml", tree / "etc/poolwright/poolwright.yaml")
    before = held(tree)
    assert install(tree, "--dry-run") == 0
    said = capsys.readouterr().out
    assert held(tree) == before
    assert install(tree) == 0
    done = capsys.readouterr().out
    assert said == "".join(
        f"{line.replace('write    ', 'would write')}\n" for line in done.splitlines()
    )
    assert "poolwright.service.d/gunicorn.conf" in done


@pytest.mark.parametrize(
    ("actuator", "sensors", "more", "chosen"),
    [
        ("{kind: gunicorn, pidfile: /run/p}", (), "", ["gunicorn"]),
        ("{kind: celery, broker: 'redis://127.0.0.1:6379/0'}", (), "", []),
        ("{kind: celery, broker: 'redis://10.0.0.7:6379/0'}", (), "", ["network"]),
        ("{kind: php_fpm, pool: www}", (), "", ["php-fpm"]),
        ("{kind: haproxy, socket: /run/h.sock}", (), "", ["haproxy"]),
        ("{kind: haproxy, agent: '127.0.0.1:9900'}", (), "", []),
        ("{kind: uwsgi}", ("{kind: process_tree, pidfile: /run/p}",), "", ["processes", "uwsgi"]),
        ("{kind: http}", ("{kind: prometheus, url: 'http://web.local:9100/m'}",), "", ["network"]),
        ("{kind: http}", ("{kind: prometheus, url: 'http://[::1]:9100/m'}",), "", []),
        ("{kind: command}", ("{kind: access_log, file: /var/log/x}",), "", ["log-files"]),
        ("{kind: command}", ("{kind: access_log, listen: '127.0.0.1:8126'}",), "", []),
        ("{kind: command}", (), "control_group: ops\n", ["control-group"]),
        ("{kind: command}", (), "listen: 0.0.0.0:9817\nlisten_public: true\n", ["network"]),
    ],
)
def test_the_rights_are_those_that_the_configuration_needs(tree, actuator, sensors, more, chosen):
    config(tree, with_pool(actuator, *sensors, more=more))
    assert install(tree) == 0
    assert dropins(tree) == chosen


def test_every_dropin_is_chosen_by_something_and_every_choice_exists():
    chosen = {name for table in (_ACTUATORS, _SENSORS) for name, _ in table.values()}
    others = {"control-group", "network", *OPT_IN}
    assert chosen | others == {p.stem for p in SHIPPED.glob("*.conf")}


def test_the_group_of_the_configuration_is_the_one_of_the_dropin(tree):
    config(tree, with_pool("{kind: command}", more="control_group: ops\n"))
    assert install(tree) == 0
    text = held(tree)["etc/systemd/system/poolwright.service.d/control-group.conf"]
    assert "SupplementaryGroups=ops\n" in text


def test_again_changes_nothing_and_what_was_edited_is_kept(tree, capsys):
    config(tree, with_pool("{kind: gunicorn, pidfile: /run/p}"))
    install(tree)
    first = held(tree)
    assert install(tree) == 0
    assert held(tree) == first
    unit = tree / "etc/systemd/system/poolwright.service"
    unit.write_text(unit.read_text().replace("MemoryMax=768M", "MemoryMax=1G"))
    mine = tree / "etc/systemd/system/poolwright.service.d/override.conf"
    mine.write_text("[Service]\nNice=5\n")
    edited = held(tree)
    capsys.readouterr()
    assert install(tree) == 0
    assert held(tree) == edited
    assert f"keep      {unit}: it was edited" in capsys.readouterr().out
    assert install(tree, "--remove") == 0
    left = [name for name in held(tree) if "systemd" in name]
    assert left == [str(p.relative_to(tree)) for p in (unit, mine)]
    assert "kept: the configuration" in capsys.readouterr().out


def test_what_an_earlier_release_wrote_is_brought_up_to_date(tree, monkeypatch, capsys):
    config(tree, with_pool("{kind: gunicorn, pidfile: /run/p}"))
    install(tree)
    newer = tree.parent / "deploy"
    shutil.copytree(ROOT / "deploy", newer)
    shutil.copy(ROOT / "config/poolwright.yaml", newer)
    with (newer / "systemd/poolwright.service").open("a") as unit:
        unit.write("# newer\n")
    for place in ("install", "install_files"):
        monkeypatch.setattr(f"poolwright.cli.{place}.shipped", lambda: newer)
    capsys.readouterr()
    assert install(tree) == 0
    said = capsys.readouterr().out
    assert said.count("update ") == 1
    assert "# newer\n" in held(tree)["etc/systemd/system/poolwright.service"]


def test_a_right_that_is_no_more_needed_is_taken_away_and_one_asked_for_stays(tree):
    config(tree, with_pool("{kind: gunicorn, pidfile: /run/p}"))
    assert install(tree, "--with", "power-rapl") == 0
    assert dropins(tree) == ["gunicorn", "power-rapl"]
    config(tree, with_pool("{kind: command}"))
    assert install(tree) == 0
    assert dropins(tree) == ["power-rapl"]


def test_where_a_package_brings_the_unit_only_the_rights_are_added(tree):
    config(tree, with_pool("{kind: gunicorn, pidfile: /run/p}"))
    unit = tree / "usr/lib/systemd/system/poolwright.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    before = held(tree)
    assert install(tree) == 0
    new = held(tree).keys() - before.keys()
    assert new == {"etc/systemd/system/poolwright.service.d/gunicorn.conf"}


def test_an_instance_has_rights_of_its_own(tree):
    text = with_pool("{kind: gunicorn, pidfile: /run/p}")
    (tree / "etc/poolwright/second.yaml").write_text(text)
    assert install(tree, "--instance", "second") == 0
    assert dropins(tree, "poolwright@second.service") == ["gunicorn"]
    assert dropins(tree) == []


def test_the_polkit_rule_names_the_template_and_nothing_else(tree):
    config(tree, CONFIG.replace("worker@", r"mail\\x2din@".replace("\\\\", "\\")))
    assert install(tree) == 0
    rule = held(tree)["etc/polkit-1/rules.d/50-poolwright-units.rules"]
    assert r"/^(?:mail\\x2din)@[1-9][0-9]*\.service$/" in rule
    assert "worker" not in rule.partition("*/")[2].partition("polkit.addRule")[2]
    assert rule.splitlines()[-1].startswith("// poolwright install: sha256 ")


def test_without_a_configuration_no_right_is_given(tree, capsys):
    assert install(tree) == 0
    assert "is not there yet: no drop-in is chosen" in capsys.readouterr().err
    assert dropins(tree) == []
    assert (tree / "etc/poolwright/poolwright.yaml.example").exists()


@pytest.mark.parametrize(
    ("text", "words", "status", "said"),
    [
        ("version: 1\npols: []\n", (), 2, "poolwright.yaml:2:1: unknown key 'pols'; did you mean"),
        (CONFIG, ("--with", "power-rap"), 2, "did you mean 'power-rapl'?"),
        (CONFIG, ("--config", "/nowhere.yaml"), 3, "/nowhere.yaml: cannot be read: No such file"),
        (
            with_pool("{kind: command}", more="control_group: nobodys\n"),
            (),
            2,
            "names the group 'nobodys', which does not exist here",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_changed(tree, capsys, text, words, status, said):
    config(tree, text)
    before = held(tree)
    assert install(tree, *words) == status
    assert said in capsys.readouterr().err
    assert held(tree) == before


def test_what_is_in_the_way_is_named_and_everything_is_as_it_was(tree, capsys):
    config(tree, with_pool("{kind: gunicorn, pidfile: /run/p}"))
    (tree / "etc/tmpfiles.d").write_text("a file where a folder should be")
    before = held(tree)
    assert install(tree) == 3
    assert f"{tree}/etc/tmpfiles.d" in (said := capsys.readouterr().err)
    assert "nothing was changed" in said
    assert held(tree) == before


def test_every_command_has_its_own_help_in_the_whole_parser():
    from poolwright.cli.main import COMMANDS

    text = parser_of(COMMANDS).format_help()
    assert all(f"\n    {name}" in text for name in COMMANDS)
