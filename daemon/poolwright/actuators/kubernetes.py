"""Moves the replicas of a Deployment or StatefulSet, by its scale subresource.

    actuator: {kind: kubernetes, deployment: web}          in a pod: all else is found
    actuator: {kind: kubernetes, stateful_set: db, namespace: shop, server: "https://10.0.0.1:6443",
               token: /etc/poolwright/token, ca: /etc/poolwright/ca.crt}

**The level** is `spec.replicas` as the API server has it; while we grow, what is ready of it. A pod
that crashes is replaced, by nobody's hand, so it lowers no level; how many are ready is told beside
it. A move is applied when as many are ready (`status.readyReplicas`) and, when it shrinks, no more
are there (`status.replicas`).

- A growth that is not ready within `ready_timeout` (no node has room, a quota, a crash loop) is
  taken back, so that no pods come at a time that nobody expects.
- Each write names the version that was seen (`resourceVersion`): nobody's change is written over.
- While a HorizontalPodAutoscaler has the same object, nothing is moved, and its name is told.
- Pods leave as Kubernetes ends them: no endpoint any more, SIGTERM, their grace period. Whether a
  request is lost is up to their own preStop and shutdown. None is deleted by us.

**The epoch** is the object's uid and its pod template: a rollout is another epoch.
What it needs to be allowed is in deploy/kubernetes/role.yaml.
"""

import asyncio
import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from poolwright.actuators.kubernetes_api import ACCOUNT, Api, ApiFault, Object, server_url
from poolwright.actuators.outcome import Refusal, outcome
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Actuation, Applied, Setting
from poolwright.core.units import PathText, Seconds
from poolwright.wire.http import words

_READ_S = 0.8  # patience of a read-back; the engine waits for 1 s
_POLL_S = 0.05
_POLL_MOST_S = 1.0
_WRITES_MOST = 8  # tries against a controller that writes the status meanwhile
_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_ALLOW = "allow it as deploy/kubernetes/role.yaml does, and bind it to poolwright's account"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """One look at the object."""

    wanted: int  # spec.replicas
    there: int  # status.replicas
    ready: int  # status.readyReplicas
    observed: bool  # the controller has seen the spec as it is
    epoch: str
    trouble: str  # what a condition says against it

    @property
    def news(self) -> str:
        """For people: what is not as it should be."""
        if self.ready == self.wanted == self.there:
            return ""
        told = f"{self.ready} of {self.wanted} pods are ready, {self.there} are there"
        return f"{told}: {self.trouble}" if self.trouble else told


class Kubernetes:
    """One Deployment or StatefulSet. Knob: replicas, or as `knob` names it."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which object, and how the API server is reached."""

        deployment: str | None = field(
            default=None,
            metadata={"doc": "name of the Deployment", "pattern": _NAME, "says": "is no name"},
        )
        stateful_set: str | None = field(
            default=None,
            metadata={"doc": "or of the StatefulSet", "pattern": _NAME, "says": "is no name"},
        )
        namespace: str | None = field(
            default=None,
            metadata={
                "doc": "its namespace; by default poolwright's own",
                "pattern": _NAME,
                "says": "is no name",
            },
        )
        knob: str = field(
            default="replicas",
            metadata={"doc": "what the policy calls the knob", "pattern": r"[a-z][a-z0-9_]*"},
        )
        server: str | None = field(
            default=None,
            metadata={"doc": "https://host:port of the API server; by default the pod's own"},
        )
        token: PathText = field(
            default=f"{ACCOUNT}/token", metadata={"doc": "file of the account's token"}
        )
        ca: PathText = field(
            default=f"{ACCOUNT}/ca.crt", metadata={"doc": "file of the CA that is trusted"}
        )
        step_timeout: Seconds = field(
            default=5.0, metadata={"doc": "how long the API server may take to answer", "above": 0}
        )
        ready_timeout: Seconds = field(
            default=180.0,
            metadata={"doc": "how long pods may take to be ready, or to leave", "above": 0},
        )

        def __post_init__(self) -> None:
            """Refuse both, neither, and what is no name."""
            if (self.deployment is None) == (self.stateful_set is None):
                raise PolicyError("kubernetes needs `deployment` or `stateful_set`, one of them")
            for name in (self.deployment, self.stateful_set, self.namespace):
                if name is not None and not re.fullmatch(_NAME, name):
                    raise PolicyError(f"{name!r} is no name in Kubernetes")
            if self.server is not None:
                server_url(self.server)

    def __init__(self, options: Options, _pool: str) -> None:
        """Raises PolicyError when it is not said where, and we are in no pod."""
        self._options = options
        self.knobs = (options.knob,)
        self._api = Api(server_url(options.server), options.token, options.ca)
        self._kind = "Deployment" if options.deployment is not None else "StatefulSet"
        self._name = options.deployment or options.stateful_set or ""
        self._lock = asyncio.Lock()  # one move at a time, also when one is cancelled for the next
        self._growing_from: int | None = None
        where = options.namespace or "own namespace"
        self.endpoint = f"kubernetes {self._api.name}, {self._kind} {where}/{self._name}"

    async def read(self) -> Applied:
        """The replicas. Raises PlantFault naming the API server and the object."""
        scene = await self._look(_READ_S)
        if scene.wanted < 1:
            raise PlantFault(f"{self.endpoint}: is scaled to 0, and stays there until it is not")
        level = scene.wanted
        if self._growing_from is not None:
            level = min(level, max(self._growing_from, scene.ready))
        levels = ((self._options.knob, level),)
        return Applied(setting=Setting(levels=levels), epoch=scene.epoch, detail=scene.news)

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Scale, and wait until the pods are ready or have left.

        Failed when that takes longer than `ready_timeout`, or when somebody else scales or rolls
        out meanwhile. Refused below 1, from 0, beside an autoscaler, and without the right to.
        """
        async with self._lock:
            try:
                move = self._move(wanted[self._options.knob])
                return await outcome(self.endpoint, decision_tick, move)
            finally:
                self._growing_from = None

    async def close(self) -> None:
        """Nothing is kept open."""

    # What is there

    def _namespace(self) -> str:
        """As told, else that of the account's files. Raises PlantFault."""
        if self._options.namespace is not None:
            return self._options.namespace
        path = Path(self._options.token).with_name("namespace")
        try:
            found = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PlantFault(f"{path}: {error}; give `namespace`") from error
        if not re.fullmatch(_NAME, found):
            raise PlantFault(f"{path}: holds no name of a namespace; give `namespace`")
        return found

    def _path(self, subresource: str = "") -> str:
        kinds = f"{self._kind.lower()}s"
        return f"/apis/apps/v1/namespaces/{self._namespace()}/{kinds}/{self._name}{subresource}"

    async def _look(self, within_s: float) -> _Scene:
        """The object now. Raises ApiFault, PlantFault."""
        found = await self._api.get(self._path(), within_s)
        meta, spec, status = (_part(found, name, self.endpoint) for name in _PARTS)
        if meta.get("deletionTimestamp"):
            raise PlantFault(f"{self.endpoint}: is being deleted")
        template = json.dumps(spec.get("template"), sort_keys=True).encode()
        return _Scene(
            wanted=_count(spec, "replicas", 1, self.endpoint),
            there=_count(status, "replicas", 0, self.endpoint),
            ready=_count(status, "readyReplicas", 0, self.endpoint),
            observed=_count(status, "observedGeneration", 0, self.endpoint)
            >= _count(meta, "generation", 0, self.endpoint),
            epoch=f"{meta.get('uid')}:{hashlib.sha256(template).hexdigest()[:12]}",
            trouble=_trouble(status),
        )

    async def _refuse_beside_autoscaler(self) -> None:
        """Two hands on one knob would be a fight. Raises Refusal, ApiFault, PlantFault."""
        for version in ("v2", "v1"):  # v2 came with Kubernetes 1.23
            path = f"/apis/autoscaling/{version}/namespaces/{self._namespace()}"
            try:
                found = await self._api.items(
                    f"{path}/horizontalpodautoscalers", self._options.step_timeout
                )
                break
            except ApiFault as fault:
                if fault.status != 404 or version == "v1":
                    raise
        for item in found:
            target = _part(_part(item, "spec", self.endpoint), "scaleTargetRef", self.endpoint)
            group = str(target.get("apiVersion", "apps/v1")).partition("/")[0]
            if (group, target.get("kind"), target.get("name")) == ("apps", self._kind, self._name):
                name = words(str(_part(item, "metadata", self.endpoint).get("name")).encode())
                raise Refusal(
                    f"HorizontalPodAutoscaler {name} scales it: two hands on one knob; delete it, "
                    "or leave the replicas to it (mode: observe)"
                )

    # Moving

    async def _move(self, goal: int) -> None:
        """Raises PlantFault, Refusal."""
        try:
            await self._go(goal)
        except ApiFault as fault:
            if fault.status != 403:
                raise
            raise Refusal(f"{fault}; {_ALLOW}") from fault

    async def _go(self, goal: int) -> None:
        if goal < 1:
            raise Refusal(f"{goal} replicas: a service keeps at least one")
        scene = await self._look(self._options.step_timeout)
        if scene.wanted < 1:
            raise Refusal("it is scaled to 0, by another hand: scale it up to let us go on")
        await self._refuse_beside_autoscaler()
        before = scene.wanted
        if goal > before:
            self._growing_from = before
        await self._scale(before, goal)
        try:
            await self._until(goal, before, scene.epoch)
        except TimeoutError as late:
            if goal > before:
                await self._scale(goal, before)
                raise PlantFault(f"{late}; put back to {before}") from late
            raise PlantFault(f"{late}; no pod was killed by us") from late

    async def _scale(self, before: int, goal: int) -> None:
        """Write the replicas, unless they are no longer what they were."""
        for _ in range(_WRITES_MOST):
            scale = await self._api.get(self._path("/scale"), self._options.step_timeout)
            spec = _part(scale, "spec", self.endpoint)
            now = _count(spec, "replicas", 0, self.endpoint)
            if now == goal:
                return
            if now != before:
                raise PlantFault(f"another hand: {before} replicas were wanted, now {now}")
            spec["replicas"] = goal
            try:
                await self._api.put(self._path("/scale"), scale, self._options.step_timeout)
            except ApiFault as fault:
                if fault.status != 409:  # somebody wrote meanwhile: look again who and what
                    raise
                continue
            return
        raise PlantFault(f"{_WRITES_MOST} writes in a row met another's (409 Conflict)")

    async def _until(self, goal: int, before: int, epoch: str) -> None:
        """Look until the pods are ready or gone. Raises TimeoutError when that takes too long."""
        began, pause_s = time.monotonic(), _POLL_S
        while True:
            try:
                scene = await self._look(self._options.step_timeout)
            except ApiFault as fault:
                if fault.status not in (429, 500, 502, 503, 504):
                    raise
                late = str(fault)  # it has much to do, or another takes over
            else:
                if scene.epoch != epoch:
                    raise PlantFault("it was rolled out or made anew during the move")
                if scene.wanted != goal:
                    raise PlantFault(f"another hand: we wanted {goal} replicas, now {scene.wanted}")
                gone = goal >= before or scene.there <= goal  # a rollout's surge may be beside
                if scene.observed and scene.ready >= goal and gone:
                    return
                late = scene.news or "its controller has not seen the change"
            spent_s = time.monotonic() - began
            if spent_s > self._options.ready_timeout:
                raise TimeoutError(f"after {spent_s:.1f} s {late}")
            await asyncio.sleep(pause_s)
            pause_s = min(_POLL_MOST_S, 1.3 * pause_s)


_PARTS = ("metadata", "spec", "status")


def _part(found: Object, name: str, where: str) -> Object:
    part = found.get(name)
    if not isinstance(part, dict):
        raise PlantFault(f"{where}: the API server's answer has no {name}")
    return part


def _count(part: Object, name: str, default: int, where: str) -> int:
    """A whole number of at least 0; the API leaves out what is zero. Raises PlantFault."""
    count = part.get(name, default)
    if type(count) is not int or count < 0:
        raise PlantFault(f"{where}: {name} is {count!r:.40}")
    return count


def _trouble(status: Object) -> str:
    """What the first condition that tells of a failure says."""
    conditions = status.get("conditions")
    for one in conditions if isinstance(conditions, list) else ():
        if not isinstance(one, dict):
            continue
        failed = one.get("type") == "ReplicaFailure" and one.get("status") == "True"
        stuck = one.get("type") == "Progressing" and one.get("status") == "False"
        if failed or stuck:
            return words(str(one.get("message", one.get("reason", ""))).encode())
    return ""
