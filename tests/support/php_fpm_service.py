"""A real php-fpm behind a real nginx on loopback, in a folder of its own.

    with PhpFpmService(workers=2) as service:
        http_get(service.http_port, "/sleep?s=0.1"), service.workers()

nginx logs to `access_log` as the sensor of that name takes it, and answers at `http_port`:
/sleep?s=SECONDS (the body is the worker's pid), /status (php-fpm's) and /stub_status (its own).
As root the workers are www-data's.
"""

import os
import shutil
import tempfile
from pathlib import Path

from gunicorn_service import http_get
from started import Started, free_port, program

_PHP = """<?php
$end = microtime(true) + (float)($_GET["s"] ?? 0);
while (($left = $end - microtime(true)) > 0) usleep((int)($left * 1e6));  // a signal wakes it
echo getmypid();
"""
_DYNAMIC = {"pm.start_servers": 2, "pm.min_spare_servers": 1, "pm.max_spare_servers": 2}


class PhpFpmService:
    """`mode` is pm; `grace` process_control_timeout, None for none; `unix`: no TCP in between."""

    def __init__(self, *, workers=2, mode="static", grace="10s", unix=False, nginx=True, **lines):
        self.folder = Path(tempfile.mkdtemp(prefix="pw-fpm-", dir="/tmp"))
        self.folder.chmod(0o755)
        (self.folder / "pool.d").mkdir()
        self.binary = program("php-fpm8.2", "php-fpm", "php-fpm8.4", "php-fpm8.3")
        self.config = self.folder / "pool.d" / "www.conf"
        self.main_config = self.folder / "php-fpm.conf"
        self.pidfile = self.folder / "php-fpm.pid"
        self.log = self.folder / "php-fpm.err"
        self.listen = str(self.folder / "www.sock") if unix else f"127.0.0.1:{free_port()}"
        self.status = self.folder / "status.sock"
        self.http_port = free_port()
        self.access_log = self.folder / "access.log"
        self.mode = mode
        self.lines = (_DYNAMIC if mode == "dynamic" else {}) | lines
        (self.folder / "sleep.php").write_text(_PHP)
        self.write_main(grace)
        self.write_pool(workers)
        argv = (self.binary, "-F", "-y", str(self.main_config))
        self.fpm = Started(argv, self.folder, self._is_up)
        self.nginx = self._made_nginx() if nginx else None

    def write_main(self, grace):
        """php-fpm.conf."""
        patience = "" if grace is None else f"process_control_timeout = {grace}\n"
        self.main_config.write_text(
            f"[global]\npid = {self.pidfile}\nerror_log = {self.log}\n{patience}"
            f"include = {self.folder}/pool.d/*.conf\n"
        )

    def write_pool(self, workers):
        """The pool's file, with a comment and an odd layout."""
        self.size = workers
        user = "user = www-data\ngroup = www-data\n" if os.geteuid() == 0 else ""
        owner = "listen.mode = 0666\n" if "/" in self.listen else ""
        more = "".join(f"{key} = {what}\n" for key, what in self.lines.items())
        self.config.write_text(
            f"; pool of the tests\n[www]\n{user}listen = {self.listen}\n{owner}"
            f"pm = {self.mode}\n  pm.max_children={workers} ; as many as memory allows\n{more}"
            f"pm.status_path = /status\npm.status_listen = {self.status}\n"
        )

    def _made_nginx(self):
        to = f"unix:{self.listen}" if "/" in self.listen else self.listen
        script = f"fastcgi_param SCRIPT_FILENAME {self.folder}/sleep.php"
        common = (
            f"fastcgi_pass {to}; fastcgi_param REQUEST_METHOD GET; "
            "fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_URI $request_uri;"
        )
        config = self.folder / "nginx.conf"
        config.write_text(
            f"daemon off; pid {self.folder}/nginx.pid; error_log {self.folder}/nginx.err;\n"
            "worker_processes 1; events { worker_connections 512; }\n"
            "http { chunked_transfer_encoding off;\n"
            "log_format poolwright 'poolwright $status $upstream_response_time';\n"
            f"access_log {self.access_log} poolwright;\n"
            f"client_body_temp_path {self.folder}/t1;\n"
            f"fastcgi_temp_path {self.folder}/t2; proxy_temp_path {self.folder}/t3;\n"
            f"uwsgi_temp_path {self.folder}/t4; scgi_temp_path {self.folder}/t5;\n"
            f"server {{ listen 127.0.0.1:{self.http_port};\n"
            "location = /stub_status { stub_status; }\n"
            "location = /ping { return 200 ok; }\n"
            f"location = /status {{ {common} fastcgi_param SCRIPT_NAME /status; "
            "fastcgi_param SCRIPT_FILENAME /status; }\n"
            f"location / {{ {common} {script}; }} }} }}\n"
        )
        argv = (program("nginx"), "-c", str(config))
        return Started(argv, self.folder, lambda: self._answers("/ping"))

    def _is_up(self):
        least = self.size if self.mode == "static" else 1
        return self.pidfile.exists() and self.status.exists() and len(self.workers()) >= least

    def _answers(self, path):
        try:
            return http_get(self.http_port, path)[0] == 200
        except OSError:
            return False

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start what is not running, and wait until it answers."""
        self.fpm.start()
        if self.nginx is not None and self.nginx.process is None:
            self.nginx.start()
        return self

    def workers(self):
        """The process ids of the pool's workers, past what is tested."""
        master = self.fpm.pid
        found = []
        for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split():
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if title.startswith(b"php-fpm: pool www"):
                found.append(int(pid))
        return found

    def stop(self):
        """End both and take the files away. May be called twice."""
        self.fpm.kill()
        if self.nginx is not None:
            self.nginx.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
