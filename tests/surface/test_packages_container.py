"""Manifests against the schemas of Kubernetes, and the Containerfile against the tree.

No container engine runs in the tests: no image was built and no cluster was met.
"""

import json
import re
import shlex
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from poolwright.cli.main import main

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"), key=str)
VERSIONS = ("1.29", "1.31", kubernetes_validate.latest_version())
CONTAINERFILE = ROOT / "deploy" / "container" / "Containerfile"


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def of_kind(kind):
    (found,) = [d for d in documents(ROOT / "deploy/kubernetes/sidecar.yaml") if d["kind"] == kind]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_manifests_are_what_kubernetes_takes(path, version):
    for document in documents(path):
        if document["apiVersion"].partition("/")[0] == "monitoring.coreos.com":
            continue  # of an operator, whose schema is not Kubernetes' own
        kubernetes_validate.validate(document, version, strict=True)


def test_a_mistake_would_be_found():
    wrong = of_kind("Deployment")
    wrong["spec"]["template"]["spec"]["shareProcesNamespace"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="shareProcesNamespace"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_pod_keeps_to_the_restricted_standard():
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, profile restricted."""
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {key for v in pod["volumes"] for key in v} <= {"name", "configMap", "emptyDir"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for container in pod["containers"]:
        closed = container["securityContext"]
        assert closed["allowPrivilegeEscalation"] is False
        assert closed["capabilities"] == {"drop": ["ALL"]}
        assert closed["readOnlyRootFilesystem"] is True
        assert container["resources"]["limits"]["memory"]


def test_volumes_ports_and_keys_that_are_named_exist():
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    volumes = {v["name"]: v for v in pod["volumes"]}
    for container in pod["containers"]:
        assert {m["name"] for m in container["volumeMounts"]} <= volumes.keys()
        ports = {p["name"] for p in container["ports"]}
        for probe in ("readinessProbe", "livenessProbe"):
            assert container.get(probe, {"httpGet": {"port": None}})["httpGet"]["port"] in {
                *ports,
                None,
            }
    mapped = {item["key"] for item in volumes["config"]["configMap"]["items"]}
    assert mapped == of_kind("ConfigMap")["data"].keys()


def test_what_the_config_map_says_is_right(tmp_path, capsys):
    data = of_kind("ConfigMap")["data"]
    (tmp_path / "policies.d").mkdir()
    (tmp_path / "policies.d/web.yaml").write_text(data["web.yaml"])
    config = f"{data['poolwright.yaml']}policies: {tmp_path}/policies.d\n"
    (tmp_path / "poolwright.yaml").write_text(config)
    assert main(["check", str(tmp_path / "poolwright.yaml")]) == 0, capsys.readouterr().err


def instructions():
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    return [line.split(None, 1) for line in text.replace("\\\n", " ").splitlines() if line]


def test_the_containerfile_copies_what_the_tree_has_and_no_more_is_sent():
    sent = (ROOT / ".containerignore").read_text().split()
    sources = []
    for name, words in instructions():
        if name == "COPY" and "--from" not in words:
            sources += words.split()[:-1]
    assert sorted(sources) == sorted(w[1:] for w in sent if w.startswith("!"))
    assert all((ROOT / source).exists() for source in sources)
    built = (ROOT / "pyproject.toml").read_text()
    for folder in re.findall(r'^"(\w+)(?:/[\w.]+)?" = "poolwright/', built, re.MULTILINE):
        assert folder in sources, "what the wheel is made of"


def test_the_image_runs_without_root_and_without_a_shell():
    told = dict(instructions()[-6:])
    assert told["USER"] == "65532:65532"
    for name in ("ENTRYPOINT", "CMD", "VOLUME"):
        assert json.loads(told[name]), "a list: no shell is needed"
    health = told["HEALTHCHECK"].partition("CMD ")[2]
    assert json.loads(health)[0] == "/opt/poolwright/bin/python"
    stages = [shlex.split(words) for name, words in instructions() if name == "FROM"]
    images = dict(words.split("=", 1) for name, words in instructions() if name == "ARG")
    assert [images[s[0].strip("${}")] for s in stages] == list(images.values())
    assert not [i for i in images.values() if i.endswith(":latest") or ":" not in i]
