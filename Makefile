# Every target sets up what it needs in a virtual environment of its own, and says what it does.
PY := .venv/bin/python
SHELL := /bin/bash
APT := DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
# What the integration tests start for real. Installed when missing and when we are root.
SERVERS := prometheus:promtool systemd-container:systemd-nspawn dbus:dbus-daemon polkitd:pkcheck \
  haproxy:haproxy redis-server:redis-server pgbouncer:pgbouncer postgresql:pg_lsclusters \
  nginx-light:nginx php-fpm:php libfcgi-bin:cgi-fcgi uwsgi-core:uwsgi-core \
  uwsgi-plugin-python3:uwsgi_python3 prometheus-node-exporter:prometheus-node-exporter \
  prometheus-ipmi-exporter:prometheus-ipmi-exporter caddy:caddy apache2-bin:apache2 \
  openssl:openssl lintian:lintian zsh:zsh fish:fish man-db:man chromium:chromium

# make swarm SEEDS=10000 plays that many random scenarios; make test a few hundred.
SEEDS ?= 1000
FIRST ?= 0
TEST_SEEDS ?= 200

.PHONY: demo test check swarm bench bench-search bench-boat bench-tracking bench-converge \
  bench-dashboard docs screenshots dist deb man clean servers

.venv/.ready: pyproject.toml
	@echo "== setting up .venv with poolwright and its tools (about a minute)"
	@python3 -m venv .venv 2>/dev/null || { \
	  echo "== python3-venv is missing: installing it"; \
	  apt-get update -qq && $(APT) python3-venv && python3 -m venv .venv; }
	@$(PY) -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(PY) -m pip install -q --disable-pip-version-check -e '.[demo]' --group dev
	@touch $@

servers:
	@missing=(); for s in $(SERVERS); do command -v "$${s#*:}" >/dev/null || missing+=("$${s%%:*}"); done; \
	if [ $${#missing[@]} -eq 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "== installing what the tests start: $${missing[*]}"; \
	  apt-get update -qq && $(APT) "$${missing[@]}" >/dev/null; \
	else \
	  echo "== cannot install $${missing[*]} (not root, or no apt-get): the tests that need them will fail by name"; \
	fi

demo: .venv/.ready
	@.venv/bin/poolwright demo $(DEMO)

test: .venv/.ready servers check
	@echo "== unit, property and simulation tests"
	@$(PY) -m pytest -q -n auto -m 'not e2e' --ignore=tests/tidy
	@echo "== a swarm of $(TEST_SEEDS) random services and faults"
	@.venv/bin/poolwright swarm --seeds $(TEST_SEEDS)
	@echo "== tests with real servers on loopback"
	@rm -rf out/servers
# They wait more than they work, so four at a time; a busy machine may be late, so a failure is tried
# again, twice at most, and named.
	@$(PY) -m pytest -q -n 4 --dist loadfile -m e2e --reruns 2 -rRfE
	@$(PY) tests/support/server_table.py --check

check: .venv/.ready
	@echo "== ruff, mypy --strict, import-linter, tidy"
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PY) -m pytest -q tests/tidy

swarm: .venv/.ready
	@.venv/bin/poolwright swarm --seeds $(SEEDS) --first $(FIRST)

# SCREENSHOTS=30 waits for so many decisions, so that there is something to see.
SCREENSHOTS ?= 12
screenshots: .venv/.ready servers
	@POOLWRIGHT_SCREENSHOTS=$(SCREENSHOTS) $(PY) -m pytest -q -k pictures tests/e2e/test_dashboard.py

bench-dashboard: .venv/.ready servers
	@$(PY) bench/dashboard.py

docs: .venv/.ready
	@$(PY) docs/draw_phases.py
	@$(PY) docs/list_metrics.py
	@$(PY) packaging/pages.py reference

# Source distribution and wheel; the Debian package; man pages and completions.
dist: .venv/.ready
	@$(PY) -m build --no-isolation --outdir out/dist

deb: .venv/.ready
	@$(PY) packaging/deb.py out/dist

man: .venv/.ready
	@$(PY) packaging/pages.py share out/share

bench: .venv/.ready bench-search
	@$(PY) bench/overhead.py
	@$(PY) bench/scrape.py
	@$(PY) bench/converge/run.py --servers gunicorn --bad 5 --runs 10
	@$(PY) bench/autoscale.py
	@$(PY) bench/ingest.py
	@$(PY) bench/journal.py

.venv-bench/.ready: pyproject.toml
	@echo "== setting up .venv-bench with the peers (torch is large; some minutes)"
	@python3 -m venv .venv-bench
	@.venv-bench/bin/python -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1'
	@.venv-bench/bin/python -m pip install -q --disable-pip-version-check -e . --group bench
	@.venv-bench/bin/python -m pip install -q --disable-pip-version-check --no-deps safeopt==0.16
	@touch $@

# SEARCH='--cells usl-64 --methods "poolwright;Optuna*" --seeds 6' makes a part of it.
SEARCH ?= --cells all --methods all --seeds 30
bench-search: .venv-bench/.ready
	@.venv-bench/bin/python bench/search/run.py $(SEARCH)
	@.venv-bench/bin/python bench/search/timing.py

BOAT ?=
bench-boat: .venv-bench/.ready
	@.venv-bench/bin/python bench/boat/gc.py $(BOAT)
	@.venv-bench/bin/python bench/boat/balance.py $(BOAT)

# TRACKING='--methods laws --seeds 3' makes a part of it.
TRACKING ?=
bench-tracking: .venv/.ready
	@nice -n 5 $(PY) bench/tracking.py $(TRACKING)

# CONVERGE=pgbouncer,haproxy makes a part of it.
CONVERGE ?= all
bench-converge: .venv/.ready servers
	@$(PY) bench/converge/run.py --servers $(CONVERGE) --write

clean:
	rm -rf .venv .venv-bench out .ruff_cache .mypy_cache .import_linter_cache
