"""A real Prometheus on loopback that scrapes one daemon every second."""

import json
import urllib.error
import urllib.parse
import urllib.request

from gunicorn_service import until
from started import Started, free_port, program

_CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: poolwright
    file_sd_configs: [{{files: [{targets}], refresh_interval: 1s}}]
"""


class PrometheusService(Started):
    """Prometheus in `folder` with the text of `rules`; scrapes 127.0.0.1:`target`."""

    def __init__(self, folder, rules, target):
        self.port = free_port()
        self._targets = folder / "targets.json"
        self._targets.write_text(json.dumps([{"targets": [f"127.0.0.1:{target}"]}]))
        (folder / "rules.yml").write_text(rules)
        config = folder / "prometheus.yml"
        config.write_text(_CONFIG.format(rules=folder / "rules.yml", targets=self._targets))
        argv = [
            program("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]
        super().__init__(argv, folder, self._answers)

    def forget_target(self):
        """Nothing is to be scraped any more."""
        self._targets.write_text("[]")

    def _answers(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as got:
                return got.status == 200
        except OSError:
            return False

    def get(self, path, **query):
        """`data` of an answer of the API; a refusal is an AssertionError with its text."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{query}: {refused.read().decode()}") from refused

    def ask(self, query):
        """The samples that a query gives now."""
        return self.get("query", query=query)["result"]

    def firing(self):
        """(alert, pool or "") of everything that fires now."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("pool", ""))
            for alert in self.get("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def until_firing(self, wanted, within_s):
        """Poll until all of `wanted` fire, each at some time; AssertionError naming what did not.

        (alert, "*"): of any pool.
        """
        seen = set()

        def all_seen():
            now = self.firing()
            seen.update(now, {(alert, "*") for alert, _ in now})
            return wanted <= seen

        try:
            until(all_seen, within_s, "the alerts fire")
        except AssertionError as late:
            raise AssertionError(f"did not fire: {sorted(wanted - seen)}; did: {seen}") from late
        return {found for found in seen if found[1] != "*"}
