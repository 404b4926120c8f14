# make demo   set up, train on the built-in scenes, evaluate, write pictures
# make test   set up, lint, run every test
# PYTHON=python3.12 picks the interpreter; each version has an environment of its own.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := .venv/$(VERSION)
RUN := $(VENV)/bin/python
DEMO := runs/demo

.PHONY: demo test lint format setup clean check-python

demo: $(VENV)/.installed
	@$(RUN) -m ccnet_jax.train --config configs/demo.py --workdir $(DEMO)
	@$(RUN) -m ccnet_jax.eval --workdir $(DEMO)
	@echo "Look at the pictures in $(DEMO)/pictures/val: input, truth and prediction side by side."

test: $(VENV)/.installed-dev lint
	$(RUN) -m pytest -n 2

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml | check-python
	@echo "Installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer; pass PYTHON=/path/to/python3.11" >&2; exit 2; }

clean:
	rm -rf .venv .pytest_cache .ruff_cache
