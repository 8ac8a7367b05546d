"""`poolwright init` over recorded facts: who is found, what is said of it, how it is written."""

from types import SimpleNamespace

import pytest

from poolwright.cli import init
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.presets import PRESETS, load
from poolwright.presets.bounds import bounds
from poolwright.presets.facts import Facts, Files, Process
from poolwright.presets.found import Advice, Asked, Found, option, options
from poolwright.presets.ini import sections
from poolwright.presets.render import config_text, policy_text
from poolwright.presets.units import Unit
from poolwright.presets.write import put_in_place, refuse_existing
from poolwright.sensors.access_log import gunicorn_flags

MIB = 2**20


class Recorded(Files):
    """Files as they were."""

    def __init__(self, **texts):
        self.texts = {path.replace("__", "/"): text for path, text in texts.items()}

    def read(self, path):
        return self.texts.get(path)

    def matching(self, pattern):
        return sorted(p for p in self.texts if p.startswith(pattern.partition("*")[0]))

    def writable(self, path):
        return False


def process(pid, line, ppid=1, **more):
    words = tuple(line.split()) if isinstance(line, str) else line
    return Process(pid=pid, ppid=ppid, words=words, user="www-data", **{"cwd": "/srv", **more})


def facts(*processes, files=None, **more):
    host = {"user": "poolwright", "may_signal": False, "hostname": "db1.example.org"}
    return Facts(
        processes={p.pid: p for p in processes},
        files=files or Recorded(),
        **{**host, "cores": 4.0, "memory_bytes": 1000 * MIB, "used_bytes": 400 * MIB, **more},
    )


def described(kind, seen, **asked):
    preset = load(kind)
    return [f for m in preset.find(seen) for f in preset.describe(m, seen, Asked(**asked))]


def only(kind, seen, **asked):
    (found,) = described(kind, seen, **asked)
    return found


def said(advice):
    return "\n".join(map(str, advice))


SEEN = {
    "gunicorn": [
        "/usr/bin/gunicorn app:app",
        "/venv/bin/python /venv/bin/gunicorn -w 3 app:app",
        "python3 -m gunicorn app:app",
        ("gunicorn: master [app:app]",),
    ],
    "uwsgi": ["uwsgi --ini web.ini", "/usr/bin/uwsgi_python3 --http-socket :80", "uwsgi-core"],
    "uvicorn": ["python -m uvicorn app:app --workers 2", "/bin/uvicorn a:b --workers=4"],
    "celery": [
        "python /bin/celery -A x worker",
        "/bin/celery worker",
        ("[celeryd: web@h:MainProcess] -active- (worker)",),
    ],
    "php_fpm": [("php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)",)],
    "haproxy": ["/usr/sbin/haproxy -Ws -f /etc/haproxy/haproxy.cfg"],
    "pgbouncer": ["/usr/sbin/pgbouncer /etc/pgbouncer/pgbouncer.ini"],
}


@pytest.mark.parametrize("kind", SEEN)
def test_each_server_is_found_by_its_own_preset_and_its_children_are_not(kind):
    for line in SEEN[kind]:
        seen = facts(process(10, line), process(11, line, ppid=10))
        assert [p.pid for p in load(kind).find(seen)] == [10], line
        assert not any(load(other).find(seen) for other in PRESETS if other != kind), line


@pytest.mark.parametrize(
    "line",
    [
        "vim gunicorn.conf.py",
        "grep -r uwsgi /etc",
        "tail -f /var/log/gunicorn.log",
        "python -m uvicorn app:app",  # no supervisor
        "celery -A x beat",
        "uwsgi --emperor /etc/uwsgi",
        "",
    ],
)
def test_what_only_looks_like_one_is_none(line):
    seen = facts(process(10, line))
    assert not any(load(kind).find(seen) for kind in PRESETS)


def test_options_are_read_in_all_their_spellings():
    words = ("x", "-w4", "--bind=a", "--bind", "b", "-p", "f", "--bindings", "c")
    assert options(words, "--bind") == ["a", "b"]
    assert option(words, "--workers", "-w") == "4"
    assert option(words, "--pid", "-p") == "f"
    assert option(words, "--none") == ""


def test_gunicorn_of_a_configuration_file_and_the_environment():
    text = "pidfile = 'g.pid'\nworkers = 2 * 3\nproc_name = 'shop'\nimport os; os._exit(1)\n"
    files = Recorded(__srv__gunicorn_conf="", **{"/srv/gunicorn.conf.py": text, "/srv/g.pid": "10"})
    environ = {"GUNICORN_CMD_ARGS": "--statsd-host 127.0.0.1:8125 --statsd-prefix shop"}
    master = process(10, "gunicorn app:app", environ=environ)
    workers = [process(n, "gunicorn app:app", ppid=10, rss_bytes=30 * MIB) for n in (11, 12, 13)]
    found = only("gunicorn", facts(master, *workers, files=files))
    told = {"statsd": "127.0.0.1:8125", "statsd_prefix": "shop"}
    assert found.preset == {"kind": "gunicorn", "pidfile": "/srv/g.pid", **told}
    assert (found.level, found.worker_bytes) == (3, 30 * MIB)
    assert "may not signal processes of www-data" in said(found.rights)


def test_a_pidfile_that_names_somebody_else_is_not_taken():
    files = Recorded(**{"/run/g.pid": "4711\n"})
    found = only("gunicorn", facts(process(10, "gunicorn -p /run/g.pid app:app"), files=files))
    assert found.missing
    assert "/run/g.pid does not name process 10" in said(found.missing)


def test_a_control_socket_counts_only_where_it_really_is():
    socket = "/home/w/.gunicorn/gunicorn.ctl"
    found = only("gunicorn", facts(process(10, "gunicorn a:b", unix=(socket,))))
    assert found.preset["control"] == socket
    for line in ("gunicorn --no-control-socket a:b", "gunicorn --control-socket /run/x a:b"):
        found = only("gunicorn", facts(process(10, line, unix=(socket,))))
        assert "control" not in found.preset
        assert found.missing


def test_a_statsd_that_somebody_else_receives_is_left_to_them():
    line = "gunicorn --statsd-host 127.0.0.1:8125 a:b"
    taken = facts(process(10, line), udp_ports=frozenset({8125, 8126}))
    found = only("gunicorn", taken)
    assert found.preset["requests"] == "127.0.0.1:8127"
    assert "leads to somebody else" in said(found.better)


def test_uwsgi_of_an_ini_file():
    text = "[uwsgi]\nmodule = shop.wsgi\nmaster_fifo = /run/f\nstats = :1717\nprocesses = 6\n"
    files = Recorded(**{"/srv/web.ini": text + "pidfile = /run/%n.pid\n"})
    found = only("uwsgi", facts(process(10, "uwsgi --ini web.ini"), files=files))
    assert found.preset == {"kind": "uwsgi", "fifo": "/run/f", "stats": "127.0.0.1:1717"}
    assert (found.most, found.missing) == (6, ())
    assert "--cheaper-algo manual" in said(found.better)
    lacks = only("uwsgi", facts(process(10, "uwsgi --http-socket :80")))
    assert "--master-fifo /run/uwsgi/fifo" in said(lacks.missing)
    assert "--stats /run/uwsgi/stats.sock" in said(lacks.missing)


def test_every_pool_of_a_php_fpm():
    main = "/etc/fpm/php-fpm.conf"
    pool = "[{0}]\nlisten = /run/{0}.sock\npm.max_children = 5 ; few\npm.status_path = /status\n"
    files = Recorded(
        **{
            main: "[global]\npid = /run/fpm.pid\ninclude=/etc/fpm/pool.d/*.conf\n",
            "/run/fpm.pid": "10",
            "/etc/fpm/pool.d/a.conf": pool.format("a"),
            "/etc/fpm/pool.d/b.conf": pool.format("b") + "pm.status_listen = 9001\n",
        }
    )
    master = process(10, (f"php-fpm: master process ({main})",), exe="/usr/sbin/php-fpm8.2")
    worker = process(11, ("php-fpm: pool b",), ppid=10, rss_bytes=20 * MIB)
    a, b = described("php_fpm", facts(master, worker, files=files))
    assert (a.name, a.level, a.worker_bytes, b.worker_bytes) == ("a", 5, 0, 20 * MIB)
    assert (a.preset["status"], b.preset["status"]) == ("unix:/run/a.sock", "127.0.0.1:9001")
    assert "takes a worker" in said(a.better)
    assert "may not write /etc/fpm/pool.d" in said(a.rights)


def test_haproxy_backends_and_their_limits():
    text = """
    global
      stats socket /run/user.sock level user
      stats socket /run/admin.sock mode 660 level admin
    defaults
      default-server maxconn 10
    backend app
      server s1 127.0.0.1:1
      server s2 127.0.0.1:2 maxconn 10 # as the default
    listen odd
      server s1 127.0.0.1:1 maxconn 3
      server s2 127.0.0.1:2
    backend empty
    """
    files = Recorded(**{"/etc/h.cfg": text})
    seen = facts(process(10, "haproxy -W -f /etc/h.cfg"), files=files)
    app, odd = described("haproxy", seen)
    assert app.preset["socket"] == "/run/admin.sock"
    assert (app.preset["servers"], app.level, app.missing) == (["s1", "s2"], 10, ())
    assert "do not all have one and the same maxconn" in said(odd.missing)


def test_pgbouncer_of_its_file():
    ini = "[pgbouncer]\nlisten_addr = *\nunix_socket_dir =\nadmin_users = a, b\nauth_type = trust\n"
    line = "/usr/sbin/pgbouncer -d p.ini"
    found = only("pgbouncer", facts(process(10, line), files=Recorded(**{"/srv/p.ini": ini})))
    assert found.preset == {"kind": "pgbouncer", "address": "127.0.0.1:6432", "user": "a"}
    assert (found.level, found.missing) == (20, ())
    own = facts(process(10, line), files=Recorded(**{"/srv/p.ini": "[pgbouncer]\n"}))
    assert "admin_users = poolwright" in said(only("pgbouncer", own).missing)
    unread = only("pgbouncer", facts(process(10, line)))
    assert "cannot read p.ini" in said(unread.missing)


def unit(name, number, pid, cgroup=""):
    return Unit(template=f"{name}@.service", number=number, pid=pid, cgroup=cgroup)


def test_the_instances_of_a_systemd_template():
    slice_ = r"/system.slice/system-my\x2dworker.slice"
    units = (
        unit("my-worker", 1, 10, f"{slice_}/my-worker@1.service"),
        unit("my-worker", 3, 11, f"{slice_}/my-worker@3.service"),
        unit("odd", 1, 20, "/odd.slice/odd@1.service"),
        unit("late", 2, 30),  # the first is not there
    )
    main = [process(n, "/usr/bin/worker", rss_bytes=20 * MIB) for n in (10, 11, 20, 30)]
    child = process(12, "/usr/bin/part", ppid=10, rss_bytes=10 * MIB)
    count = "/sys/fs/cgroup{}/memory.current".format
    files = Recorded(**{count(slice_): "1", count("/odd.slice"): "1"})
    seen = facts(*main, child, units=units, files=files)
    lacks, odd = described("systemd_units", seen)
    assert "--access-log FILE" in said(lacks.missing)
    found, _ = described("systemd_units", seen, access_log="/log")
    told = {"kind": "systemd_units", "template": "my-worker@.service", "access_log": "/log"}
    assert (found.preset, found.level, found.missing) == (told, 2, ())
    assert (found.name, found.worker_bytes) == ("my-worker", 25 * MIB)
    assert odd.preset["cgroup"] == "/odd.slice"
    assert "50-poolwright-units.rules" in said(found.rights)
    blind, _ = described("systemd_units", facts(*main, units=units), access_log="/log")
    assert blind.preset["cgroup"] is None
    assert "MemoryAccounting=yes" in said(blind.better)


def test_a_server_in_an_instance_is_sized_by_itself():
    units = (unit("web", 1, 10), unit("web", 2, 20))
    seen = facts(process(10, "gunicorn a:b"), process(20, "gunicorn a:b"), units=units)
    assert [f.kind for f in services(seen)] == ["gunicorn", "gunicorn"]
    assert [f.kind for f in services(seen, kind="systemd_units")] == ["systemd_units"]


def test_why_systemd_could_not_be_asked_is_said_to_who_asks_for_it():
    with pytest.raises(PolicyError, match=r"no master .* \(/run/dbus: No such file\)"):
        services(facts(no_units="/run/dbus: No such file"), kind="systemd_units")


def test_celery_names_and_brokers():
    found = only("celery", facts(process(10, "celery -A x worker -n web@%n -c 3 -E")))
    assert found.preset["node"] == "web@db1"
    assert (found.level, found.preset["events"], found.name) == (3, True, "web")
    assert "--broker redis://HOST" in said(found.missing)
    told = process(10, "celery -b redis://me:s3cret@r:6379/1 worker --autoscale 4,1")
    found = only("celery", facts(told))
    assert found.preset["broker"] == "redis://me@r:6379/1"
    assert found.preset["node"] == "celery@db1.example.org"
    assert "s3cret" not in repr(found)
    asked = only("celery", facts(told), broker="redis://r/1?password=s3cret")
    assert asked.preset["broker"] == "redis://r/1"
    assert "--password-file FILE" in said(found.missing)
    assert "without --autoscale" in said(found.missing)


def pool(**more):
    base = {"pid": 10, "name": "web", "level": 4}
    return Found(**{**base, "preset": {"kind": "gunicorn", "pidfile": "/run/g.pid"}, **more})


@pytest.mark.parametrize(
    ("level", "worker", "most", "expected"),
    [
        (4, 10 * MIB, 0, (2, 16)),  # cores
        (4, 100 * MIB, 0, (2, 8)),  # memory: 450 MiB free, four more
        (4, 900 * MIB, 0, (2, 4)),  # no room: what runs now stays within
        (4, 10 * MIB, 6, (2, 6)),
        (1, 10 * MIB, 0, (1, 16)),
        (0, 0, 0, (1, 4)),
        (5, 0, 0, (2, 20)),
    ],
)
def test_bounds_are_the_least_of_what_limits_them(level, worker, most, expected):
    found = pool(level=level, worker_bytes=worker, most=most, why_most="its limit")
    made = bounds(found, facts())
    assert (made.lower, made.upper) == expected
    assert made.why[1].startswith(f"max {made.upper}: the least of")


def test_a_text_that_is_no_plain_scalar_is_quoted():
    odd = {"kind": "gunicorn", "pidfile": "/run/a b: {x}#.pid", "pool": "no", "listen": ["1:2"]}
    text = config_text([pool(preset=odd, better=(Advice(what="w " * 80, add="x " * 80),))], "p")
    assert 'pidfile: "/run/a b: {x}#.pid", pool: "no", listen: ["1:2"]' in text
    assert f"#   {'x ' * 80}\n" in text
    unseen = {"kind": "pgbouncer", "address": "127.0.0.1:6432"}
    assert "slo" not in policy_text(pool(preset=unseen), facts())


def test_the_common_case_is_five_lines_without_what_is_default_anyway():
    told = {"requests": "127.0.0.1:8126", "listen": ["127.0.0.1:8000"]}
    found = pool(preset={"kind": "gunicorn", "pidfile": "/run/web/gunicorn.pid", **told})
    lines = [line for line in config_text([found], "policies.d").splitlines() if line[0] != "#"]
    assert lines == [
        "version: 1",
        "policies: policies.d",
        "pools:",
        "  - name: web",
        '    preset: {kind: gunicorn, pidfile: /run/web/gunicorn.pid, listen: ["127.0.0.1:8000"]}',
    ]


def test_ini_files_of_all_kinds():
    text = '; c\n[a]\n# c\nx = 1 ; c\ny="q ; r"\n[b]\nno line\nx==2\n'
    assert sections(text) == {"a": {"x": "1", "y": "q ; r"}, "b": {"x": "=2"}}


def test_all_files_or_none(tmp_path):
    staged = {tmp_path / n: tmp_path / "out" / n for n in ("a", "b")}
    for path in staged:
        path.write_text(path.name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b").symlink_to("nowhere")  # it exists, though it leads nowhere
    with pytest.raises(PolicyError, match="out/b exists; nothing was written"):
        put_in_place(staged)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]
    with pytest.raises(PolicyError, match="out/b exists; nothing"):
        refuse_existing(list(staged.values()))
    (tmp_path / "out/b").unlink()
    put_in_place(staged)
    assert (tmp_path / "out/b").read_text() == "b"
    with pytest.raises(PlantFault, match="/b: is no folder; nothing was written"):
        put_in_place({tmp_path / "a": tmp_path / "b" / "c"})


def test_names_are_what_a_configuration_takes_and_each_is_used_once():
    names = [f.name for f in init._named([pool(name=n) for n in ("My App", "my_app", "7", "")])]
    assert names == ["my-app", "my-app-2", "gunicorn-7", "gunicorn"]


def test_the_person_is_asked_which(capsys):
    one, two = pool(), pool(name="api", pid=11)
    assert init._asked([one], lambda _: "") == [one]
    assert init._asked([one], lambda _: "n") == []
    assert init._asked([one, two], lambda _: "2") == [two]
    assert init._asked([one, two], lambda _: "all") == [one, two]
    assert init._asked([one, two], lambda _: "") == []
    with pytest.raises(PolicyError, match="'3' is none of 1 to 2"):
        init._asked([one, two], lambda _: "1, 3")
    assert "  2  gunicorn api (process 11, workers 4)" in capsys.readouterr().out


def services(seen, **asked):
    words = {name.replace("-", "_"): "" for name, _, _ in init._OPERATORS_WORD}
    return init._services(seen, SimpleNamespace(**{"kind": None, "pid": None, **words, **asked}))


def test_one_name_is_for_one_service():
    seen = facts(process(10, "gunicorn a:b"), process(20, "gunicorn c:d"))
    with pytest.raises(PolicyError, match=r"--pool is .* name it by --pid \(10, 20\)"):
        services(seen, pool="web")


def test_a_pidfile_says_which_service_is_meant():
    masters = process(10, "gunicorn a:b"), process(20, "gunicorn c:d")
    seen = facts(*masters, files=Recorded(**{"/run/c.pid": "20\n", "/run/d.pid": "30"}))
    (found,) = services(seen, pidfile="/run/c.pid")
    assert (found.pid, found.preset["pidfile"]) == (20, "/run/c.pid")
    with pytest.raises(PolicyError, match=r"--pidfile /run/d.pid names no master process of"):
        services(seen, pidfile="/run/d.pid")


def test_one_log_is_of_one_service():
    seen = facts(process(10, "uvicorn a:b --workers 2"), process(20, "uvicorn c:d --workers 2"))
    with pytest.raises(PolicyError, match=r"--access-log is .* by --pid \(10, 20\)"):
        services(seen, access_log="/var/log/nginx/a.log")


def test_a_name_chooses_among_the_pools_of_one_server():
    text = "backend app\nserver s 127.0.0.1:1 maxconn 3\nbackend b\nserver s 127.0.0.1:1\n"
    files = Recorded(**{"/h": text})
    (found,) = services(facts(process(10, "haproxy -f /h"), files=files), pool="app")
    assert found.preset["backend"] == "app"


def test_each_service_reports_to_a_port_of_its_own():
    seen = facts(process(10, "gunicorn a:b"), process(20, "gunicorn c:d"))
    told = [found.preset["requests"] for found in services(seen)]
    assert told == ["127.0.0.1:8126", "127.0.0.1:8127"]


def test_a_command_line_cannot_write_into_the_files_or_onto_the_terminal(capsys):
    evil = "x\n  - {name: evil}\x1b[2J"
    words = ("gunicorn", "--statsd-host", f"127.0.0.1:1{evil}", "--name", evil, "-p", evil, "a:b")
    found = services(facts(process(10, words, unix=(f"/{evil}/gunicorn.ctl",))))
    init._tell(found)
    text = config_text(found, "policies.d") + policy_text(found[0], facts())
    assert "\x1b" not in text + capsys.readouterr().out
    assert not [line for line in text.splitlines() if line.strip().startswith("- {name")]


def test_gunicorn_is_called_as_its_application_whatever_stands_last():
    told = "poolwright %(s)s %(D)s %({x-request-start}i)s"
    line = ("gunicorn", "shop.web:app", "-b", "127.0.0.1:80", "--access-logformat", told)
    assert only("gunicorn", facts(process(7, line))).name == "shop"
    assert only("gunicorn", facts(process(7, (*line[:1], *line[2:], "web:make(1)")))).name == "web"


def test_two_that_tell_nothing_and_one_that_does_get_three_addresses():
    flags = gunicorn_flags("127.0.0.1:8126")
    seen = facts(
        process(7, "gunicorn a:app"), process(8, "gunicorn b:app"),
        process(9, ("gunicorn", "c:app", *flags)),
    )  # fmt: skip
    found = {f.name: f.preset["requests"] for f in described("gunicorn", seen)}
    assert found == {"a": "127.0.0.1:8127", "b": "127.0.0.1:8128", "c": "127.0.0.1:8126"}
