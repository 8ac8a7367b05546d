"""The demo service, called as gunicorn would."""

import json
import time
from dataclasses import fields
from pathlib import Path

import pytest

from poolwright.core.errors import PolicyError
from poolwright.demo.service import Cache, Service, Shape, burn, shape_from

QUICK = Shape(cpu_s=0.0, io_s=0.0, miss_cpu_s=0.0, entries=3, ttl_s=10.0, entry_bytes=1 << 20)


def call(service, path="/", query=""):
    seen = []
    environ = {"PATH_INFO": path, "QUERY_STRING": query}
    body = b"".join(service(environ, lambda status, headers: seen.append((status, headers))))
    ((status, headers),) = seen
    assert dict(headers)["Content-Length"] == str(len(body))
    return status, json.loads(body)


def test_burning_takes_cpu_not_time():
    before = time.thread_time()
    assert burn(0.02) > 0
    assert 0.02 <= time.thread_time() - before < 0.03
    assert burn(0.0) == 0
    assert burn(-1.0) == 0


def test_the_cache_keeps_an_entry_for_its_life_and_holds_the_memory():
    now = [100.0]
    cache = Cache(QUICK, lambda: now[0])
    assert cache.held_bytes == 0
    assert cache.get(1)[1] is False
    entry, hit = cache.get(1)
    assert hit
    assert len(entry) == 1 << 20
    assert set(entry) == {1}, "written, so resident"
    now[0] += 9.9
    assert cache.get(1)[1] is True
    now[0] += 0.2
    assert cache.get(1)[1] is False
    cache.get(2)
    assert cache.held_bytes == 2 << 20
    assert (cache.hits, cache.misses) == (2, 3)


def test_memory_is_resident():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    cache = Cache(Shape(cpu_s=0.0, io_s=0.0, miss_cpu_s=0.0, entry_bytes=32 << 20))
    before = resident()
    cache.get(0)
    assert resident() - before > 24 << 20


def test_a_miss_costs_its_cpu_and_a_hit_does_not():
    service = Service(Shape(cpu_s=0.001, io_s=0.0, miss_cpu_s=0.03, entries=1, ttl_s=60.0))
    _, cold = call(service, query="n=1")
    _, warm = call(service, query="n=2")
    assert (cold["hit"], warm["hit"]) == (False, True)
    assert 0.031 <= cold["cpu_s"] < 0.06
    assert 0.001 <= warm["cpu_s"] < 0.02


def test_a_request_waits_as_its_number_says():
    service = Service(Shape(cpu_s=0.0, io_s=0.02, miss_cpu_s=0.0, entry_bytes=0))
    began = time.monotonic()
    _, told = call(service, query="n=5")
    assert time.monotonic() - began >= told["wait_s"] >= 0.01
    assert told == call(service, query="n=5")[1] | {"hit": False, "cpu_s": told["cpu_s"]}


def test_all_keys_are_asked_for():
    service = Service(QUICK)
    keys = [call(service, query=f"n={n}")[1]["key"] for n in range(300)]
    assert {keys.count(key) > 60 for key in range(3)} == {True}


@pytest.mark.parametrize("query", ["n=-1", "n=x", "n=1e9", "n=%C2%B2", "n=" + "9" * 40])
def test_a_wrong_number_is_the_clients_fault(query):
    assert call(Service(QUICK), query=query)[0].startswith("400")


def test_other_paths():
    service = Service(QUICK)
    assert call(service, "/healthz") == ("200 OK", {"status": "ok"})
    assert call(service, "/other")[0].startswith("404")
    assert service.cache.misses == 0


def test_the_environment_overrides_every_number():
    for field in fields(Shape):
        shape = shape_from({f"POOLWRIGHT_DEMO_{field.name.upper()}": "3"})
        assert getattr(shape, field.name) == 3
        assert type(getattr(shape, field.name)) is field.type
    assert shape_from({"OTHER": "1"}) == Shape()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CPU_S", "x"),
        ("CPU_S", "-1"),
        ("CPU_S", "nan"),
        ("TTL_S", "inf"),
        ("ENTRIES", "0"),
        ("ENTRIES", "1.5"),
    ],
)
def test_a_wrong_override_is_refused_by_name(name, value):
    with pytest.raises(PolicyError, match=f"POOLWRIGHT_DEMO_{name}"):
        shape_from({f"POOLWRIGHT_DEMO_{name}": value})
