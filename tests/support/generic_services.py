"""The real servers that the actuators for anything are tried on: HAProxy, Caddy, PHP-FPM."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from started import Started, answers, free_port, program

# What an operator would write to get and set HAProxy's maxconn of a server.
_MAXCONN = """
import csv, socket, sys

def ask(line):
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(sys.argv[1])
        link.sendall(line.encode() + b"\\n")
        return b"".join(iter(lambda: link.recv(65536), b"")).decode().strip()

if sys.argv[2] == "get":
    rows = csv.DictReader(ask("show stat")[2:].splitlines())
    print(next(row["slim"] for row in rows if row["svname"] == "s1"))
elif sys.argv[2] == "epoch":
    print(next(line for line in ask("show info").splitlines() if line.startswith("Pid:")))
else:
    sys.exit(ask("set maxconn server be/s1 " + sys.argv[3]) or 0)
"""


class Haproxy:
    """One backend server with `maxconn` 2, and the script that moves it."""

    def __init__(self, folder, backend=1):
        self.folder = Path(folder)
        self.port = free_port()
        self.sock = self.folder / "haproxy.sock"
        self.script = self.folder / "maxconn.py"
        self.script.write_text(_MAXCONN)
        (self.folder / "haproxy.cfg").write_text(
            f"global\n  stats socket {self.sock} level admin\n  hard-stop-after 20s\n"
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n"
            "  timeout server 30s\n  timeout queue 30s\n"
            f"frontend fe\n  bind 127.0.0.1:{self.port}\n  default_backend be\n"
            f"backend be\n  server s1 127.0.0.1:{backend} maxconn 2\n"
        )
        argv = [program("haproxy"), "-W", "-db", "-f", "haproxy.cfg"]
        self.server = Started(argv, folder, self._ready)

    def argv(self, *words):
        """The script's command line."""
        return (sys.executable, "-IS", str(self.script), str(self.sock), *words)

    def run(self, *words):
        return subprocess.run(
            self.argv(*words), capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    def ask(self, line):
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.sock))
            link.sendall(line.encode() + b"\n")
            return b"".join(iter(lambda: link.recv(65536), b"")).decode()

    def maxconn(self):
        row = next(r for r in self.ask("show stat").splitlines() if r.startswith("be,s1,"))
        return int(row.split(",")[6])

    def version(self):
        return re.search(r"Version: (\S+?)-", self.ask("show info"))[1]

    def _ready(self):
        with contextlib.suppress(OSError):
            return answers(self.port) and bool(self.ask("show info"))
        return False


class Caddy:
    """A reverse proxy with at most 2 connections to its upstream; the others wait for one.

    Not `max_requests`: what waits for an upstream with room is answered 503 at each new
    configuration (2.6.2).
    """

    PATH = "/config/apps/http/servers/web/routes/0/handle/0/transport"

    def __init__(self, folder, backend=1):
        self.folder = Path(folder)
        self.port, self.admin = free_port(), free_port()
        handle = {
            "handler": "reverse_proxy",
            "upstreams": [{"dial": f"127.0.0.1:{backend}"}],
            "transport": {
                "protocol": "http",
                "max_conns_per_host": 2,
                "keep_alive": {"enabled": False},
            },
        }
        server = {
            "listen": [f"127.0.0.1:{self.port}"],
            "automatic_https": {"disable": True},
            "routes": [{"handle": [handle]}],
        }
        admin = {"listen": f"127.0.0.1:{self.admin}", "config": {"persist": False}}
        self.config = self.folder / "caddy.json"
        self.config.write_text(
            json.dumps({"admin": admin, "apps": {"http": {"servers": {"web": server}}}})
        )
        argv = [program("caddy"), "run", "--config", str(self.config)]
        home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        self.env = home
        self.server = Started(argv, folder, self._ready, env=home)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.admin}{self.PATH}"

    def most(self):
        for _ in range(20):  # while a new configuration comes into force it may hang up
            with (
                contextlib.suppress(ConnectionError, urllib.error.URLError),
                urllib.request.urlopen(self.url, timeout=5) as answer,
            ):
                return json.load(answer)["max_conns_per_host"]
            time.sleep(0.05)
        raise AssertionError(f"{self.url} does not answer")

    def version(self):
        argv = [program("caddy"), "version"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()[0]

    def reload(self):
        """As `systemctl reload caddy`: the file's level comes back."""
        argv = [program("caddy"), "reload", "--config", str(self.config)]
        argv += ["--address", f"127.0.0.1:{self.admin}", "--force"]
        subprocess.run(argv, check=True, capture_output=True, env=os.environ | self.env, timeout=20)

    def _ready(self):
        return answers(self.port) and answers(self.admin)


_STATUS = """#!/bin/sh
# what an operator would write to ask PHP-FPM how many processes it has
export SCRIPT_NAME=/status SCRIPT_FILENAME=/status QUERY_STRING=json REQUEST_METHOD=GET
exec {cgi_fcgi} -bind -connect {socket} | sed -n 's/.*"total processes":\\([0-9]*\\).*/\\1/p'
"""


class PhpFpm:
    """A static pool of 2, asked through `port` of an nginx; the level is in its file."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.chmod(0o755)
        self.pidfile = self.folder / "fpm.pid"
        self.sock, self.status = self.folder / "fpm.sock", self.folder / "status.sock"
        self.script = self.folder / "sleep.php"
        self.script.write_text(
            "<?php $end = microtime(true) + ($_GET['s'] ?? 0); $said = (string)getmypid();\n"
            "while (microtime(true) < $end) usleep(2000); // a signal ends a usleep early\n"
            "header('Content-Length: ' . strlen($said)); echo $said;\n"
        )
        self.config = self.folder / "fpm.conf"
        self.config.write_text(
            f"[global]\npid = {self.pidfile}\nerror_log = {self.folder}/fpm.log\n"
            "daemonize = no\nprocess_control_timeout = 20s\n"
            f"[www]\nuser = root\ngroup = root\nlisten = {self.sock}\nlisten.mode = 0666\n"
            f"pm = static\npm.max_children = 2 ; as the load needs\npm.status_path = /status\n"
            f"pm.status_listen = {self.status}\n"
        )
        self.get = self.folder / "processes.sh"
        self.get.write_text(_STATUS.format(cgi_fcgi=program("cgi-fcgi"), socket=self.status))
        self.get.chmod(0o755)
        argv = [program("php-fpm8.2", "php-fpm8.4", "php-fpm"), "-F", "-R", "-y", str(self.config)]
        self.server = Started(argv, folder, self._ready)

    def processes(self):
        """How many children of the master have the pool's name, past its own status."""
        path = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children")
        count = 0
        for pid in path.read_text().split():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                count += line.strip(b" \0") == b"php-fpm: pool www"
        return count

    def version(self):
        out = subprocess.run(
            [self.server.argv[0], "-v"], capture_output=True, text=True, check=True
        )
        return out.stdout.split()[1]

    def _ready(self):
        return self.sock.exists() and self.pidfile.exists() and self.processes() == 2


class Nginx:
    """nginx with what is given in its `server`; listens at `port`."""

    def __init__(self, folder, server, http=""):
        self.folder = Path(folder)
        self.folder.chmod(0o755)
        self.port = free_port()
        self.pidfile = self.folder / "nginx.pid"
        (self.folder / "nginx.conf").write_text(
            f"user root;\ndaemon off;\npid {self.pidfile};\nerror_log {self.folder}/error.log;\n"
            "worker_processes 1;\nevents {}\nhttp {\n"
            + "".join(
                f"  {kind}_temp_path {self.folder}/{kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"  access_log off;\n  {http}\n"
            f"  server {{\n    listen 127.0.0.1:{self.port};\n    {server}\n  }}\n}}\n"
        )
        argv = [program("nginx"), "-p", str(folder), "-c", str(self.folder / "nginx.conf")]
        self.server = Started(argv, folder, lambda: answers(self.port))


class Prometheus:
    """A Prometheus that scrapes itself every 0.2 s."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.port = free_port()
        self.config = self.folder / "prometheus.yml"
        self._scrape(f"127.0.0.1:{self.port}")
        argv = [program("prometheus"), f"--config.file={self.config}"]
        argv += [f"--web.listen-address=127.0.0.1:{self.port}", "--web.enable-lifecycle"]
        argv += [f"--storage.tsdb.path={self.folder / 'data'}"]
        self.server = Started(argv, folder, self._ready)

    def _scrape(self, *targets):
        self.config.write_text(
            "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\nscrape_configs:\n"
            f"- {{job_name: itself, static_configs: [{{targets: {json.dumps(targets)}}}]}}\n"
        )

    def query(self, expression):
        url = f"http://127.0.0.1:{self.port}/api/v1/query?query={expression}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]["result"]

    def has_scraped(self):
        return bool(self.query("up"))

    def stop_scraping(self):
        """As when its configuration lost the service: no target, and no staleness marker."""
        self._scrape()
        url = f"http://127.0.0.1:{self.port}/-/reload"
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10).close()

    def status(self):
        return Path(f"/proc/{self.server.pid}/status").read_text()

    def _ready(self):
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{self.port}/-/ready"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.status == 200
        return False


_MODULES = ("mpm_event", "authn_core", "authz_core", "unixd", "log_config", "proxy", "proxy_http")


class Apache:
    """Apache as a proxy of `backend`, with a log that is `combined` and %D."""

    FORMAT = r"%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\" %D"

    def __init__(self, folder, backend):
        self.folder = Path(folder)
        self.port = free_port()
        self.access = self.folder / "access.log"
        binary = program("apache2", "httpd")
        library = Path("/usr/lib/apache2/modules")
        load = "".join(
            f"LoadModule {name}_module {library}/mod_{name}.so\n"
            for name in _MODULES
            if (library / f"mod_{name}.so").exists()  # some builds hold some of them inside
        )
        (self.folder / "apache.conf").write_text(
            f"{load}ServerRoot {folder}\nDefaultRuntimeDir {folder}\nServerName localhost\n"
            f"PidFile {folder}/apache.pid\nErrorLog {folder}/error.log\n"
            f"Listen 127.0.0.1:{self.port}\n"
            f'LogFormat "{self.FORMAT}" timed\nCustomLog {self.access} timed\n'
            f"ProxyPass / http://127.0.0.1:{backend}/ disablereuse=On\n"
        )
        argv = [binary, "-f", str(self.folder / "apache.conf"), "-D", "FOREGROUND"]
        self.server = Started(argv, folder, lambda: answers(self.port))
