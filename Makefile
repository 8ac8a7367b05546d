# Every target sets up what it needs in its own virtual environment, and says what it does.
PY := .venv/bin/python
SHELL := /bin/bash

.PHONY: demo test check bench clean

.venv/.ready: pyproject.toml
	@echo "== setting up .venv with poolwright and its tools"
	@python3 -m venv .venv 2>/dev/null || { echo "== python3-venv is missing: installing it"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv && python3 -m venv .venv; }
	@$(PY) -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(PY) -m pip install -q --disable-pip-version-check -e '.[demo]' --group dev
	@touch $@

check: .venv/.ready
	@echo "== ruff, mypy --strict, import-linter, tidy"
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PY) -m pytest -q tests/tidy
