"""`poolwright init` under a booted systemd: instances of a template are found and written down."""

import pytest
import units_machine
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.root]

LOG = "/var/log/nginx-access.log"
OUT = "/opt/etc"


@pytest.fixture
def poolwright(request):
    """Runs the command inside the machine, where two instances of worker@.service run."""
    machine = units_machine.machine(request)
    exports = [f"{name}={word}" for name, word in units_machine.ENV.items()]

    def run(*words, check=True):
        command = ("env", *exports, units_machine.PYTHON, "-m", "poolwright", *words)
        return machine.run(*command, check=check)

    machine.run("sh", "-c", f"rm -rf {OUT}; touch {LOG}; systemctl start worker@4 plain@2")
    run.machine = machine
    return run


def test_the_instances_of_a_template_become_a_pool(poolwright):
    words = ("init", "--yes", "--out", OUT, "--access-log", LOG)
    said = poolwright(*words)
    assert "systemd_units worker (process " in said
    assert "workers 3)" in said
    assert "plain" not in said  # without its first instance it is nothing of ours
    config = poolwright.machine.path(f"{OUT}/poolwright.yaml").read_text()
    (pool,) = yaml.safe_load(config)["pools"]
    # a machine within a machine may have no controller of memory
    has_memory = pool["preset"].pop("cgroup", "there") is not None
    told = {"kind": "systemd_units", "template": "worker@.service", "access_log": LOG}
    assert pool == {"name": "worker", "preset": told}
    policy = poolwright.machine.path(f"{OUT}/policies.d/worker.yaml").read_text()
    assert "max(3 now * 2, " in policy
    probed = poolwright("check", "--probe", f"{OUT}/poolwright.yaml")
    assert "actuator systemd_units: worker@.service at /run/dbus/system_bus_socket" in probed
    assert ("sensor cgroup: " in probed) is has_memory
    assert units_machine.active(poolwright.machine) == [1, 2, 4]  # nothing was moved


def test_without_the_log_of_what_is_in_front_it_says_what_is_missing(poolwright):
    said = poolwright("init", "--yes", "--out", OUT, "--kind", "systemd_units", check=False)
    assert "cannot be moved yet: systemd tells nobody of requests" in said
    assert "poolwright init --access-log FILE" in said
    assert not poolwright.machine.path(OUT).exists()
