"""A real HAProxy for the contract tests."""

import pytest
from haproxy_service import HaproxyService
from plant import Plant, kind_of


@pytest.fixture
def haproxy(tmp_path):
    """Two servers with a maxconn of 2 each, moved through the socket."""
    with HaproxyService(tmp_path / "haproxy", servers=2) as service:
        kind = kind_of("haproxy")
        options = kind.Options(
            backend="app", servers=("s1", "s2"), socket=str(service.admin), step_timeout=5.0
        )

        def count():
            limits = {service.limit("s1"), service.limit("s2")}
            return max(limits)

        yield Plant(
            make=lambda: kind(options, "web"),
            count=count,
            end=service.kill,
            name=str(service.admin),
            atomic=True,
        )
