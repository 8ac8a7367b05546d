"""Every query of the board and of the runbooks, asked of a real Prometheus that scraped a daemon.

A real gunicorn under load, tuned by a real daemon with a real learner; what the run has made must
be there. What it cannot make is listed with the reason.
"""

import re
from types import SimpleNamespace

import pytest
from alarming_daemon import AlarmingDaemon, Traffic, requests_told, told_service
from gunicorn_service import until
from prometheus_files import board, faster, panels, queries_of_pages, queries_of_panels
from prometheus_service import PrometheusService

pytestmark = pytest.mark.e2e

WITHIN_S = 150.0  # of a machine that does much else; it takes 25 s in all
VARIABLES = {"$instance": ".*", "$pool": ".*", "$__rate_interval": "20s"}
# Metric -> why the run has no sample of it.
ABSENT = {
    "poolwright_advice_level": "advice is given in mode recommend, when a plan differs",
    "poolwright_advice_gain_ratio": "as above",
    "poolwright_advice_safe_probability": "as above",
    "poolwright_overrides_active": "only what is in force is shown, and no policy has an override",
}


def filled_in(query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of some windows, and its Prometheus."""
    folder = tmp_path_factory.mktemp("board")
    web = told_service(folder, "web", 2)
    daemon = AlarmingDaemon(folder)
    prometheus = PrometheusService(folder, faster(), daemon.http)
    traffic = None
    try:
        web.start()
        daemon.add_gunicorn("web", web, "{kind: power}")
        daemon.add_log("lost", "{kind: file, path: {level}}", web.pidfile)
        daemon.settle_before("lost")
        daemon.repeat(0.2, lambda _: requests_told(folder / "lost.log", 20, 0.01))
        daemon.start()
        prometheus.start()
        traffic = Traffic(web.port, "/sleep?s=0.05", clients=3)
        learned = 'poolwright_predicted_latency_seconds{pool="web"}'
        until(lambda: prometheus.ask(learned), WITHIN_S, "the learner has a plan")
        daemon.repeat(0.2, lambda _: daemon.turn("web"))
        moved = 'rate(poolwright_decisions_total{pool="web",action="track"}[20s]) > 0'
        until(lambda: prometheus.ask(moved), WITHIN_S, "moves are seen")
        daemon.stop_threads()
        surprise = 'poolwright:latency_surprise:z{pool="web"}'
        until(lambda: prometheus.ask(surprise), WITHIN_S, "a window is compared with the plan")
        answers = {
            (title, query): prometheus.ask(filled_in(query)) for title, query in queries_of_panels()
        }
        for _, query in queries_of_pages():
            prometheus.ask(query)  # refused: AssertionError with the reason
        exemplars = prometheus.get(
            "query_exemplars",
            query="poolwright_tick_duration_seconds_bucket",
            start=0,
            end=2**40,
        )
        labels = {
            name: prometheus.get(f"label/{name}/values", **{"match[]": filled_in(metric)})
            for name, metric in variables()
        }
        yield SimpleNamespace(answers=answers, exemplars=exemplars, labels=labels)
    finally:
        daemon.close()
        if traffic is not None:
            traffic.stop()
        for started in (web, prometheus):
            if started.process is not None:
                started.kill()


def variables():
    """(label, metric) of every variable that asks for the values of a label."""
    for variable in board()["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            yield asked[2], asked[1]


def test_every_query_of_every_panel_gives_what_the_run_has_made(run):
    empty = {
        title: query
        for (title, query), found in run.answers.items()
        if not found and not any(name in query for name in ABSENT)
    }
    assert not empty
    assert len(run.answers) > len(list(panels()))


def test_numbers_are_numbers(run):
    for (title, query), found in run.answers.items():
        for sample in found:
            assert sample["value"][1] not in {"NaN", "+Inf", "-Inf"}, (title, query)


def test_the_variables_find_the_daemon_and_its_pools(run):
    assert len(run.labels["instance"]) == 1
    assert set(run.labels["pool"]) == {"web", "lost"}


def test_ticks_have_exemplars(run):
    assert any("decision_id" in e["labels"] for s in run.exemplars for e in s["exemplars"])
