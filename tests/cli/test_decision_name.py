"""`explain --decision RUN/TICK`: what logs and exemplars call a decision leads to it."""

import pytest
from test_cli_explain import journal, told

from poolwright.cli.main import main

__all__ = ["journal"]  # a fixture


def test_a_decision_is_found_by_its_name_in_the_log(journal, capsys):
    assert "tick 412: web probed workers=4" in told(capsys, journal, "--decision", "1/412").out


def test_a_tick_that_goes_on_holding_leads_to_what_it_holds(journal, capsys):
    assert "tick 412: web probed workers=4" in told(capsys, journal, "--decision", "1/420").out


@pytest.mark.parametrize("name", ["7/412", "1/0"])
def test_a_name_that_leads_nowhere_is_told(journal, capsys, name):
    assert f"has no decision {name}" in told(capsys, journal, "--decision", name, status=3).err


@pytest.mark.parametrize("name", ["1/", "/4", "1/2/3", "x", "-1/3", "\u0661/2"])
def test_what_is_no_name_is_refused(journal, capsys, name):
    with pytest.raises(SystemExit) as ended:
        main(["explain", "web", "--journal", str(journal), f"--decision={name}"])
    assert ended.value.code == 2
    assert "is neither a number nor RUN/TICK" in capsys.readouterr().err
