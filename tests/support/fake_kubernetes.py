"""A small API server that keeps to what Kubernetes promises of the few calls that scaling needs.

No cluster runs where the tests do. This is a real server on loopback: TLS with a CA of its own,
bearer tokens, rules of access read from deploy/kubernetes/role.yaml, objects with resourceVersion
and generation, the scale subresource with 409 for a version that has passed, lists in pages that
may expire (410), and a controller that makes pods ready one by one, as many as there is room for.
It knows nothing of nodes, networks and rollouts.
"""

import copy
import json
import ssl
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

ROOT = Path(__file__).parents[2]
NAMESPACE = "shop"
_STATUS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired"}


def make_certificates(folder):
    """A CA and a certificate of 127.0.0.1 that it has signed: ca.crt, server.pem."""

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=api")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext")
    openssl("x509", "-req", "-in", "server.csr", *signed, "-out", "server.crt")
    pair = (folder / "server.crt").read_text() + (folder / "server.key").read_text()
    (folder / "server.pem").write_text(pair)


def granted():
    """(group, resource, name or "", verb) that deploy/kubernetes/role.yaml allows."""
    parts = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "role.yaml").read_text())
    role = next(part for part in parts if part["kind"] == "Role")
    return {
        (group, resource, name, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class FakeCluster:
    """One object (`kind` named web) in one namespace. Attributes are what a test may change."""

    def __init__(self, folder, *, kind="Deployment", replicas=2, pod_s=0.05, tls=True):
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)
        self.kind = kind
        self.pod_s = pod_s  # after so long a pod is ready; one after the other
        self.room = 1000  # pods that find a place
        self.trouble = ""  # a condition that says why not
        self.allowed = granted()
        if kind == "StatefulSet":
            self.allowed |= {
                (g, r.replace("deployments", "statefulsets"), n, v) for g, r, n, v in self.allowed
            }
        self.tokens = {"first"}
        self.autoscalers = []  # (name, kind, target) of HorizontalPodAutoscalers
        self.hpa_versions = {"v2", "v1"}
        self.page = 500  # most items of a list at once
        self.expire = 0  # so many continued lists are answered with 410
        self.conflicts = 0  # before so many writes the status is written by the controller
        self.before_write = lambda: None
        self.broken = None  # (status, bytes) in place of every answer
        self.requests = []  # (method, path)
        self.uid = str(uuid.uuid4())
        self.template = {"spec": {"containers": [{"name": "web", "image": "web:1"}]}}
        self.deleted = False
        self._lock = threading.RLock()
        self._version, self._generation = 100, 1
        self._replicas = replicas
        self._pods = [0.0] * replicas  # when each is ready
        self._write_account()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls:
            make_certificates(self.folder)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.folder / "server.pem")
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        port = self._server.server_address[1]
        self.url = f"http{'s' * tls}://127.0.0.1:{port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """The API server is gone. May be called twice."""
        self._server.shutdown()
        self._server.server_close()

    def _write_account(self):
        (self.folder / "token").write_text("first\n")
        (self.folder / "namespace").write_text(NAMESPACE)

    # The object

    @property
    def replicas(self):
        return self._replicas

    def ready(self):
        """How many pods are ready now."""
        with self._lock:
            now = time.monotonic()
            return sum(at <= now for at in self._pods[: self.room])

    def scale(self, replicas):
        """Anybody's write of the replicas."""
        with self._lock:
            self._replicas = replicas
            self._generation += 1
            self._version += 1
            last = max([time.monotonic(), *self._pods])
            while len(self._pods) < replicas:
                last += self.pod_s
                self._pods.append(last)
            del self._pods[replicas:]

    def roll_out(self, image, replicas=None):
        """Another pod template, and maybe the replicas that the manifest names."""
        with self._lock:
            self.template = copy.deepcopy(self.template)
            self.template["spec"]["containers"][0]["image"] = image
            self.scale(self._replicas if replicas is None else replicas)

    def _meta(self):
        meta = {"name": "web", "namespace": NAMESPACE, "uid": self.uid}
        meta |= {"resourceVersion": str(self._version), "generation": self._generation}
        return meta | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if self.deleted else {})

    def _object(self):
        ready = self.ready()
        status = {"observedGeneration": self._generation}
        status |= {"replicas": len(self._pods)} if self._pods else {}
        status |= {"readyReplicas": ready} if ready else {}  # zeros are left out, as the API does
        if self.trouble:
            status["conditions"] = [
                {"type": "Available", "status": "True"},
                {"type": "ReplicaFailure", "status": "True", "message": self.trouble},
            ]
        spec = {"replicas": self._replicas, "template": self.template}
        return {
            "apiVersion": "apps/v1",
            "kind": self.kind,
            "metadata": self._meta(),
            "spec": spec,
            "status": status,
        }

    def _scale(self):
        return {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": self._meta(),
            "spec": {"replicas": self._replicas},
            "status": {"replicas": len(self._pods), "selector": "app=web"},
        }

    # The server

    def answer(self, method, target, headers, body):
        """(status, object) of a request."""
        parts = urlsplit(target)
        with self._lock:
            self.requests.append((method, parts.path))
            try:
                return 200, self._route(method, parts, headers, body)
            except Refused as refused:
                return refused.code, {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "status": "Failure",
                    "message": str(refused),
                    "reason": _STATUS[refused.code],
                    "code": refused.code,
                }

    def _route(self, method, parts, headers, body):
        if self.url.startswith("https"):
            scheme, _, token = headers.get("Authorization", "").partition(" ")
            if scheme != "Bearer" or token not in self.tokens:
                raise Refused(401, "Unauthorized")
        words = parts.path.strip("/").split("/")
        if words[0] != "apis" or words[3:5] != ["namespaces", NAMESPACE]:
            raise Refused(404, "the server could not find the requested resource")
        group, version, rest = words[1], words[2], words[5:]
        kinds = f"{self.kind.lower()}s"
        if (group, rest) == ("autoscaling", ["horizontalpodautoscalers"]):
            if version not in self.hpa_versions:
                raise Refused(404, "the server could not find the requested resource")
            self._allow("list", group, "horizontalpodautoscalers", "")
            return self._list(parse_qs(parts.query))
        if (group, version) != ("apps", "v1") or rest[0] != kinds:
            raise Refused(404, "the server could not find the requested resource")
        verb = {"GET": "get", "PUT": "update"}[method]
        self._allow(verb, group, "/".join([rest[0], *rest[2:]]), rest[1])
        if rest[1] != "web":
            raise Refused(404, f'{kinds}.apps "{rest[1]}" not found')
        if rest[2:] == ["scale"]:
            return self._put_scale(json.loads(body)) if method == "PUT" else self._scale()
        return self._object()

    def _allow(self, verb, group, resource, name):
        if not {(group, resource, name, verb), (group, resource, "", verb)} & self.allowed:
            raise Refused(
                403,
                f'{resource}.{group} "{name}" is forbidden: User "system:serviceaccount:shop:'
                f'poolwright" cannot {verb} resource "{resource}" in API group "{group}"',
            )

    def _put_scale(self, scale):
        if self.conflicts > 0:
            self.conflicts -= 1
            self._version += 1
        self.before_write()
        if scale["metadata"].get("resourceVersion") not in (None, str(self._version)):
            raise Refused(
                409,
                'Operation cannot be fulfilled on deployments.apps "web": the object has been '
                "modified; please apply your changes to the latest version and try again",
            )
        if scale["metadata"].get("uid") not in (None, self.uid):
            raise Refused(409, "Precondition failed: UID")
        self.scale(scale["spec"]["replicas"])
        return self._scale()

    def _list(self, query):
        begin = int(query.get("continue", ["0"])[0])
        if begin and self.expire > 0:
            self.expire -= 1
            raise Refused(410, "The provided continue parameter is too old")
        most = min(self.page, int(query.get("limit", ["500"])[0]))
        meta = {"resourceVersion": str(self._version)}
        if begin + most < len(self.autoscalers):
            meta["continue"] = str(begin + most)
        items = [
            {
                "metadata": {"name": name},
                "spec": {
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": target},
                    "maxReplicas": 9,
                },
            }
            for name, kind, target in self.autoscalers[begin : begin + most]
        ]
        return {"kind": "HorizontalPodAutoscalerList", "metadata": meta, "items": items}

    def _handler(cluster):  # noqa: N805 - `self` is the request's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def _serve(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, found = cluster.answer(self.command, self.path, self.headers, body)
                text = json.dumps(found).encode()
                if cluster.broken is not None:
                    status, text = cluster.broken
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = _serve  # noqa: N815

            def log_message(self, *_):
                pass

            def handle(self):
                try:
                    super().handle()
                except OSError:  # the client hung up, or does not trust us
                    self.close_connection = True

        return Handler
