# Two commands: `make train` and `make test`. Each sets up what it needs; running it again costs nothing.
# PYTHON=/path/to/python takes an existing environment (with the dependencies installed) instead of making .venv.
VENV := .venv
BASE ?= python3
ifdef PYTHON
READY :=
else
PYTHON := $(VENV)/bin/python
READY := $(VENV)/ready
endif

.PHONY: help train test lint bench clean setup
help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY)  ## Make the virtual environment and install the package

train: $(READY)  ## Train on the built-in puppets (about 10 minutes); the result is a report.html
	$(PYTHON) -m lmdis_fast.train

test: $(READY)  ## Run ruff, mypy and the tests, as CI does
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest

lint: $(READY)  ## Correct what ruff can, then check style and types
	$(PYTHON) -m ruff check --fix . && $(PYTHON) -m ruff format .
	$(PYTHON) -m mypy

bench: $(READY)  ## Measure operators and the training step
	$(PYTHON) -m bench

clean:  ## Remove the environment, caches and build products (runs stay)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/ready: requirements-lock.txt pyproject.toml setup.py
	@$(BASE) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "lmdis_fast needs Python 3.10 or newer; name one with BASE=/path/to/python3"; exit 1; }
	test -x $(VENV)/bin/python || $(BASE) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -r requirements-lock.txt
	$(VENV)/bin/python -m pip install -q --no-build-isolation --no-deps -e .
	@touch $@
