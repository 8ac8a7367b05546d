"""A small API server for the contract tests: no cluster runs where the tests do."""

import pytest
from fake_kubernetes import FakeCluster
from plant import Plant, kind_of


@pytest.fixture
def kubernetes(tmp_path):
    """A Deployment with two pods, and room for more."""
    with FakeCluster(tmp_path / "cluster") as cluster:
        kind = kind_of("kubernetes")
        options = kind.Options(
            deployment="web",
            server=cluster.url,
            token=str(cluster.folder / "token"),
            ca=str(cluster.folder / "ca.crt"),
            ready_timeout=10.0,
        )
        yield Plant(
            make=lambda: kind(options, "web"),
            count=cluster.ready,
            end=cluster.stop,
            name=cluster.url,
        )
