"""`poolwright run` over real servers, and what it says."""

import json
import subprocess
import sys
import urllib.request

import psutil
from gunicorn_service import until
from started import Started, free_port

_HEAD = """\
version: 1
listen: 127.0.0.1:{http}
control: {folder}/control.sock
journal: {folder}/journal.db
policies: {folder}/policies.d
{more}pools:
"""
WITHIN_S = 60.0


def command_line(*words):
    """One command of poolwright in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "poolwright", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


class Daemon(Started):
    """One daemon in a folder of its own; `pools` and `policy` (mine.yaml) as they are written."""

    def __init__(self, folder, pools, policy):
        folder.mkdir(exist_ok=True)
        (folder / "policies.d").mkdir()
        self.config, self.journal = folder / "poolwright.yaml", folder / "journal.db"
        self.http = free_port()
        command = (sys.executable, "-m", "poolwright", "run", "--config", str(self.config))
        super().__init__(command, folder, lambda: self.said("ready:"))
        self.write(pools)
        self.set_policy(policy)

    def write(self, pools, more=""):
        """The configuration; `more` are further lines before its pools."""
        head = _HEAD.format(http=self.http, folder=self.folder, more=more)
        self.config.write_text(head + pools)

    def set_policy(self, text):
        (self.folder / "policies.d" / "mine.yaml").write_text(text)

    def start(self):
        """Start, also again, and wait until it is ready."""
        self.told = self.log.stat().st_size if self.log.exists() else 0
        return super().start()

    def said(self, text):
        """Whether it has logged that since it was started; it lives."""
        said = self.log.read_text(errors="replace")
        assert self.process.poll() is None, said
        return text in said[self.told :]

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
            return answer.read().decode()

    def pools(self):
        assert self.process.poll() is None, self.log.read_text()
        return json.loads(self.get("/api/v1/status"))["pools"]

    def status(self):
        return self.pools()[0]

    def until(self, what, words, within_s=WITHIN_S):
        """Poll its status until `what(status)`."""
        return until(lambda: what(self.status()), within_s, words)

    def rss_mb(self):
        """MB of 10^6 bytes that its control process takes."""
        return psutil.Process(self.pid).memory_info().rss / 1e6

    def stop(self):
        """SIGTERM; it ends well. May be called twice."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(15) == 0, self.log.read_text()
