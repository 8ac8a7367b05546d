"""The kubernetes actuator against a small API server that keeps to the rules (fake_kubernetes)."""

import asyncio
import statistics
import time

import pytest
from fake_kubernetes import NAMESPACE, FakeCluster, make_certificates
from server_table import Row, note

from poolwright.actuators.kubernetes import Kubernetes
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import ActuationStatus, Setting, setting

pytestmark = pytest.mark.e2e


@pytest.fixture
def cluster(tmp_path):
    with FakeCluster(tmp_path / "cluster") as made:
        yield made


def actuator(cluster, **options):
    name = "deployment" if cluster.kind == "Deployment" else "stateful_set"
    given = {
        name: "web",
        "server": cluster.url,
        "token": str(cluster.folder / "token"),
        "ca": str(cluster.folder / "ca.crt"),
        "ready_timeout": 10.0,
    }
    return Kubernetes(Kubernetes.Options(**given | options), "web")


async def moved(made, replicas, tick=1):
    return await made.apply(setting(replicas=replicas), tick)


async def refused(made, replicas=4):
    outcome = await moved(made, replicas)
    assert outcome.status is ActuationStatus.REFUSED, outcome
    return outcome.detail


async def failed(made, replicas=4):
    outcome = await moved(made, replicas)
    assert outcome.status is ActuationStatus.FAILED, outcome
    return outcome.detail


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
async def test_applied_is_when_the_pods_are_ready(tmp_path, kind):
    with FakeCluster(tmp_path / "cluster", kind=kind, pod_s=0.2) as cluster:
        made = actuator(cluster)
        assert (await made.read()).setting == setting(replicas=2)
        outcome = await moved(made, 5)
        assert outcome.status is ActuationStatus.APPLIED, outcome.detail
        assert outcome.took_s > 0.55
        assert cluster.ready() == 5
        assert (await moved(made, 1)).status is ActuationStatus.APPLIED
        assert (await made.read()).setting == setting(replicas=1)


async def test_only_what_role_yaml_allows_is_needed_and_each_rule_is(cluster):
    made = actuator(cluster)
    whole = set(cluster.allowed)
    assert (await moved(made, 3)).status is ActuationStatus.APPLIED
    for rule in sorted(whole):
        cluster.allowed = whole - {rule}
        said = await refused(made)
        assert "is forbidden" in said
        assert "role.yaml" in said
        assert cluster.replicas == 3


async def test_a_reading_that_is_forbidden_names_the_right_that_lacks(cluster):
    cluster.allowed = set()
    with pytest.raises(PlantFault, match=r'403: deployments.apps "web" is forbidden.*cannot get'):
        await actuator(cluster).read()


async def test_the_token_is_read_again_when_it_rotates(cluster):
    made = actuator(cluster)
    await made.read()
    cluster.tokens = {"second"}
    with pytest.raises(PlantFault, match="401"):
        await made.read()
    (cluster.folder / "token").write_text("second")
    assert (await made.read()).setting == setting(replicas=2)


async def test_the_ca_is_read_again_when_it_changes(cluster, tmp_path):
    made = actuator(cluster)
    right = (cluster.folder / "ca.crt").read_text()
    other = tmp_path / "other"
    other.mkdir()
    make_certificates(other)
    (cluster.folder / "ca.crt").write_text((other / "ca.crt").read_text())
    with pytest.raises(PlantFault, match="certificate is not trusted"):
        await made.read()
    assert cluster.requests == []  # so the token was not sent
    (cluster.folder / "ca.crt").write_text(right + "\n")
    assert (await made.read()).setting == setting(replicas=2)


async def test_a_certificate_of_another_name_is_not_trusted(cluster):
    made = actuator(cluster, server=cluster.url.replace("127.0.0.1", "127.0.0.2"))
    with pytest.raises(PlantFault):
        await made.read()
    assert cluster.requests == []


@pytest.mark.parametrize("bad", ["", "a b", "\x00", "ü"])
async def test_a_bad_token_is_told_and_never_shown(cluster, bad):
    (cluster.folder / "token").write_text(bad)
    with pytest.raises(PlantFault, match=r"token .*/token: ") as fault:
        await actuator(cluster).read()
    assert "a b" not in str(fault.value)
    assert cluster.requests == []


async def test_an_autoscaler_of_the_same_object_is_named_and_refused(cluster):
    made = actuator(cluster)
    cluster.autoscalers = [("a", "Deployment", "other"), ("b", "StatefulSet", "web")]
    assert (await moved(made, 3)).status is ActuationStatus.APPLIED
    cluster.autoscalers.append(("web-hpa", "Deployment", "web"))
    said = await refused(made)
    assert "HorizontalPodAutoscaler web-hpa" in said
    assert cluster.replicas == 3
    assert (await made.read()).setting == setting(replicas=3)
    cluster.autoscalers.pop()
    assert (await moved(made, 4)).status is ActuationStatus.APPLIED


async def test_an_autoscaler_on_a_later_page_is_found_also_when_the_list_expires(cluster):
    made = actuator(cluster)
    cluster.page = 3
    cluster.autoscalers = [(f"h{n}", "Deployment", f"app{n}") for n in range(10)]
    cluster.autoscalers.append(("last", "Deployment", "web"))
    assert "last" in await refused(made)
    cluster.expire = 1
    assert "last" in await refused(made)
    cluster.expire = 9
    assert "410" in await failed(made)
    assert cluster.replicas == 2


async def test_an_old_cluster_is_asked_in_its_own_version(cluster):
    cluster.hpa_versions = {"v1"}
    cluster.autoscalers = [("web-hpa", "Deployment", "web")]
    assert "web-hpa" in await refused(actuator(cluster))


async def test_a_conflict_with_a_status_write_is_tried_again(cluster):
    cluster.conflicts = 3
    outcome = await moved(actuator(cluster), 4)
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    assert sum(method == "PUT" for method, _ in cluster.requests) == 4


async def test_conflicts_without_end_fail_the_move(cluster):
    cluster.conflicts = 1000
    assert "409" in await failed(actuator(cluster))
    assert cluster.replicas == 2


async def test_what_another_hand_writes_in_between_is_not_written_over(cluster):
    made = actuator(cluster)
    cluster.before_write = lambda: cluster.scale(7)
    assert "another hand: 2 replicas were wanted, now 7" in await failed(made)
    assert cluster.replicas == 7
    assert (await made.read()).setting == setting(replicas=7)


async def test_another_hand_while_pods_start_fails_the_move_and_keeps_its_level(cluster):
    made = actuator(cluster)
    cluster.pod_s = 0.5
    move = asyncio.create_task(moved(made, 6))
    while cluster.replicas != 6:  # noqa: ASYNC110 - the cluster is in another thread
        await asyncio.sleep(0.01)
    await asyncio.to_thread(cluster.scale, 3)
    outcome = await move
    assert outcome.status is ActuationStatus.FAILED
    assert "another hand: we wanted 6 replicas, now 3" in outcome.detail
    assert cluster.replicas == 3


async def test_a_growth_without_room_is_taken_back(cluster):
    made = actuator(cluster, ready_timeout=0.6)
    cluster.room, cluster.trouble = 3, "exceeded quota: compute"
    said = await failed(made, 8)
    assert "3 of 8 pods are ready" in said
    assert "exceeded quota: compute" in said
    assert said.endswith("put back to 2")
    assert cluster.replicas == 2


async def test_a_growth_is_read_as_what_is_ready(cluster):
    made = actuator(cluster)
    cluster.pod_s = 0.3
    move = asyncio.create_task(moved(made, 5))
    levels = []
    while not move.done():
        levels.append((await made.read()).setting["replicas"])
        await asyncio.sleep(0.02)
    assert levels == sorted(levels)
    assert set(levels) >= {2, 3, 4}
    assert (await move).status is ActuationStatus.APPLIED


async def test_a_pod_that_is_not_ready_is_told_and_is_no_other_hand(cluster):
    made = actuator(cluster)
    cluster.room = 1
    seen = await made.read()
    assert seen.setting == setting(replicas=2)
    assert seen.detail == "1 of 2 pods are ready, 2 are there"


async def test_a_rollout_is_another_epoch_and_a_scale_is_not(cluster):
    made = actuator(cluster)
    before = await made.read()
    cluster.scale(5)
    scaled = await made.read()
    assert (scaled.epoch, scaled.setting) == (before.epoch, setting(replicas=5))
    cluster.roll_out("web:2", replicas=2)
    after = await made.read()
    assert after.epoch != before.epoch
    assert after.setting == setting(replicas=2)


async def test_scaled_to_zero_is_left_alone(cluster):
    made = actuator(cluster)
    cluster.scale(0)
    with pytest.raises(PlantFault, match="is scaled to 0"):
        await made.read()
    assert "scaled to 0" in await refused(made)
    assert cluster.replicas == 0


async def test_what_is_not_there_or_goes_is_named(cluster):
    cluster.allowed.add(("apps", "deployments", "", "get"))
    with pytest.raises(PlantFault, match=r"404: .*not found"):
        await actuator(cluster, deployment="nobody").read()
    with pytest.raises(PlantFault, match="404"):
        await actuator(cluster, namespace="elsewhere").read()
    cluster.deleted = True
    with pytest.raises(PlantFault, match="is being deleted"):
        await actuator(cluster).read()


BROKEN = {
    "no json": (200, b"<html>", "no JSON object"),
    "a list": (200, b"[]", "no JSON object"),
    "deep": (200, b"[" * 100_000, "no JSON object"),
    "empty": (200, b"{}", "has no metadata"),
    "a ghost": (200, b'{"metadata":{},"spec":{"replicas":"3"},"status":{}}', "replicas is '3'"),
    "below": (200, b'{"metadata":{},"spec":{"replicas":-1},"status":{}}', "replicas is -1"),
    "huge": (200, b" " * (9 << 20), "longer than"),
    "moved": (301, b"{}", "301"),
    "broken": (500, b'{"message":"etcd \\u001b[31m is away"}', r"500: etcd \?\[31m is away"),
    "busy": (429, b"slow down", "429: no reason given"),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_an_answer_that_cannot_be_believed_is_a_fault(cluster, how):
    status, body, why = BROKEN[how]
    cluster.broken = status, body
    made = actuator(cluster)
    with pytest.raises(PlantFault, match=why):
        await made.read()
    assert cluster.url in await failed(made)
    assert cluster.replicas == 2


async def test_an_api_server_that_is_away_for_a_moment_does_not_end_the_wait(cluster):
    made = actuator(cluster)
    cluster.pod_s = 0.3
    move = asyncio.create_task(moved(made, 4))
    while cluster.replicas != 4:  # noqa: ASYNC110 - the cluster is in another thread
        await asyncio.sleep(0.01)
    cluster.broken = (503, b"{}")
    await asyncio.sleep(0.3)
    cluster.broken = None
    outcome = await move
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail


async def test_a_kubectl_proxy_on_loopback_is_spoken_to_without_a_token(tmp_path):
    with FakeCluster(tmp_path / "cluster", tls=False) as cluster:
        (cluster.folder / "token").unlink()
        made = actuator(cluster, namespace=NAMESPACE)
        assert (await moved(made, 3)).status is ActuationStatus.APPLIED


async def test_in_a_pod_all_is_found(cluster, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", cluster.url.rpartition(":")[2])
    made = actuator(cluster, server=None, knob="workers")
    assert made.knobs == ("workers",)
    wanted = Setting(levels=(("workers", 3),))
    assert (await made.apply(wanted, 1)).status is ActuationStatus.APPLIED
    assert (await made.read()).setting == wanted
    assert cluster.url in made.endpoint
    (cluster.folder / "namespace").unlink()
    with pytest.raises(PlantFault, match="give `namespace`"):
        await made.read()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "`deployment` or `stateful_set`"),
        ({"deployment": "a", "stateful_set": "b"}, "one of them"),
        ({"deployment": "../secrets"}, "is no name"),
        ({"deployment": "Web"}, "is no name"),
        ({"deployment": "web", "namespace": "a/b"}, "is no name"),
        ({"deployment": "web", "server": "http://10.0.0.1:8001"}, "without TLS"),
        ({"deployment": "web", "server": "https://h:6443/api"}, "has a path"),
        ({"deployment": "web", "server": "ftp://h"}, "is not http"),
        ({"deployment": "web", "server": "https://u:p@h"}, "password"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, why):
    with pytest.raises(PolicyError, match=why):
        Kubernetes.Options(**options)


def test_outside_of_a_pod_the_server_must_be_told(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(PolicyError, match="not in a pod"):
        Kubernetes(Kubernetes.Options(deployment="web"), "web")


async def test_the_row_of_the_servers_page(cluster):
    made = actuator(cluster)
    cluster.pod_s = 0.0
    before = await made.read()
    took = []
    for tick in range(10):
        began = time.perf_counter()
        outcome = await moved(made, 2 + (tick + 1) % 2 * 6, tick)
        took.append(time.perf_counter() - began)
        assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    cluster.scale(5)
    hand = await made.read()
    assert (hand.setting, hand.epoch) == (setting(replicas=5), before.epoch)
    cluster.roll_out("web:2", replicas=2)
    rolled = await made.read()
    assert (rolled.setting, rolled.epoch != before.epoch) == (before.setting, True)
    cluster.stop()
    with pytest.raises(PlantFault, match=cluster.url.rpartition(":")[2]):
        await made.read()
    note(
        Row(
            kind="kubernetes",
            server="Kubernetes API (a stand-in: no cluster runs in the tests)",
            version="apps/v1, autoscaling/v2",
            reads="`spec.replicas`, `status.readyReplicas`",
            moves="PUT of the `scale` subresource, with `resourceVersion`",
            confirmed_s=(min(took), statistics.median(took), max(took)),
            on_reload="a rollout is another epoch, with the manifest's replicas",
            on_crash="an API server that is away: read-back fails naming it; the pods run on",
            on_another_hand="its replicas are read at once and stay; an autoscaler is refused",
        )
    )
