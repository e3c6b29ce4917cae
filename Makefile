# make demo   answers from real models on this machine, after installing all they need
# make docs   the documentation site, into build/site
# make test   the whole gate: format, lint, types, tests
# make test-ray   the tests on a Ray cluster of four processes and more; some minutes
# make        the same as make test

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := test
.PHONY: bench coverage demo docs test test-ray format lint types mypy pyright tests clean help

help:  ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## install, get the models, start Postgres, ask questions of every route
	@$(BIN)/rttc demo

test: $(VENV)/.dev  ## the whole gate
	@$(MAKE) --no-print-directory -j 2 lint types
	@$(MAKE) --no-print-directory tests

format: $(VENV)/.dev  ## rewrite the code in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lint: $(VENV)/.dev  ## format check and lint
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .

types: mypy pyright  ## mypy and pyright, both strict

mypy: $(VENV)/.dev
	@$(BIN)/mypy

pyright: $(VENV)/.dev
	@$(BIN)/basedpyright --pythonpath $(BIN)/python

# Containers often set it; then every process that a test starts compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

# Four processes also on two cores: a third of the time goes into waiting for servers and children.
PYTEST := $(BIN)/python -m pytest -n 4 --dist worksteal

tests: $(VENV)/.dev  ## all tests
	@$(PYTEST)

test-ray: $(VENV)/.ray  ## the tests that start a Ray cluster; they need minutes and the extra `ray`
	@$(BIN)/python -m pytest -n 0 -m ray tests/integration/test_ray_serve.py

coverage: $(VENV)/.dev  ## the tests with branch coverage and its floor; tracing doubles their time
	@$(PYTEST) --cov --cov-report=term:skip-covered

docs: $(VENV)/.dev  ## the documentation site, into build/site; every warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict -f docs/site/mkdocs.yml
	@echo "look at it: $(BIN)/python -m http.server -d build/site"

bench: $(VENV)/.dev  ## the quick benchmarks, each against a peer in the same run
	@$(BIN)/python -m benchmarks overhead switch mixed

clean:  ## remove the environment and caches; data in RTTC_HOME stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV): torch and the rest, some minutes the first time"
	@$(PIP) -e '.[postgres,local,cli]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "installing the tools for tests"
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.ray: $(VENV)/.dev
	@echo "installing Ray: 240 MB"
	@$(PIP) -e '.[ray]'
	@touch $@
