# Fresh machine: python3 (3.11 or newer, with venv), make and gcc are all that is needed.
#   make test PYTHON=python3.13 VENV=.venv313     another Python beside the first

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
JOBS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-$(EXTRAS)
SOURCES := aizuchi tests .ci/audit.py $(wildcard recipes benchmarks)

# The tests' processes are the parallelism: one thread each, or they would wait for one another.
export OMP_NUM_THREADS ?= 1
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help reply serve test lint format audit install clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

reply: $(CORE) ## answer a recorded greeting: writes reply.wav
	$(BIN)/aizuchi reply examples/greeting.flac --tail 4 -o reply.wav

serve: $(VENV)/.installed-serve ## talk with the model in a browser: prints the address (MODEL=, PORT=, HOST=)
	$(BIN)/aizuchi serve $(if $(MODEL),--model $(MODEL)) $(if $(HOST),--host $(HOST)) --port $(or $(PORT),8998)

test: lint ## install into .venv if needed, then lint, types and tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

lint: $(DEV) ## ruff and mypy only
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(DEV) ## let ruff put the code in order
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

audit: $(DEV) ## what is installed is what is pinned; known vulnerabilities, where PyPI's advisories are in reach
	@test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && \
		$(VENV)/audit/bin/python -m pip --disable-pip-version-check install --quiet 'pip-audit>=2.9'; } || true
	$(BIN)/python .ci/audit.py --pip-audit $(VENV)/audit/bin/pip-audit $(AUDIT_ARGS)

install: $(DEV) ## only make the environment

# The stamps are newer than the files that they were made from, so that a second run installs nothing.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' || \
		{ echo "aizuchi needs Python 3.11 to 3.14; name one: make $(MAKECMDGOALS) PYTHON=python3.13"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing aizuchi into $(VENV) (the first time takes a few minutes)"
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-serve: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing aizuchi[serve] into $(VENV) (the first time takes a few minutes)"
	$(PIP) -c constraints.txt -e '.[serve]'
	@touch $(CORE) $@

$(DEV): pyproject.toml constraints.txt requirements-peers.txt | $(BIN)/python
	@echo "installing aizuchi[$(EXTRAS)] into $(VENV) (the first time takes a few minutes)"
	$(PIP) -c constraints.txt -e '.[$(EXTRAS)]'
	$(PIP) --no-deps -r requirements-peers.txt
	@touch $(CORE) $@

clean: ## remove the environment, caches and outputs
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis reply.wav
	find aizuchi tests -name __pycache__ -type d -prune -exec rm -rf {} +
