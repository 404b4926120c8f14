# make demo   set up, train on the built-in scenes, evaluate, write images
# make test   set up, lint, run every test
# make test-fast   the tests of a second or less, by the marker "slow" of the others: under a minute
# make test-lowest   the same with the oldest versions that requirements.txt allows, on Python 3.11
# make lock   resolve requirements.txt into requirements-lock.txt, with the hashes of all files
# make audit   look for known weaknesses in all that is required (needs the network), and write sbom.cdx.json
# PYTHON=python3.12 picks the interpreter; each version has an environment of its own, and one for tests:
# the CUDA plugin in it compiles for GPUs without one, and complains where a program looks for one to run on.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := .venv/$(VERSION)
RUN := $(VENV)/bin/python
DEV := .venv/$(VERSION)-dev
LOWEST := .venv/$(VERSION)-lowest
DEMO := runs/demo
# uv installs in a tenth of pip's time; where it does not come, or does not reach the index, pip does it.
define install
$(1)/bin/python -m pip install --quiet --disable-pip-version-check uv && \
$(1)/bin/uv pip install --quiet --python $(1)/bin/python $(2) || \
$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2)
endef

.PHONY: demo test test-fast test-lowest lint format lock audit setup clean check-python

demo: $(VENV)/.installed
	@$(RUN) -m ccnet_jax.demo --workdir $(DEMO)

test: $(DEV)/.installed lint
	$(DEV)/bin/python -m pytest -n 2 --dist worksteal

test-fast: $(DEV)/.installed
	$(DEV)/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

test-lowest: requirements-lowest.txt requirements-dev.txt | check-python
	$(PYTHON) -m venv $(LOWEST)
	@$(call install,$(LOWEST),--requirement requirements-lowest.txt --requirement requirements-dev.txt)
	$(LOWEST)/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy

format: $(DEV)/.installed
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .
	$(DEV)/bin/python -m ccnet_jax.config.config_table
	$(DEV)/bin/python -m experiments.report

AUDIT := .venv/audit
LOCK := requirements-lock.txt

lock: $(AUDIT)/.installed
	(head -1 $(LOCK); $(AUDIT)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate requirements.txt) > $(LOCK).new
	mv $(LOCK).new $(LOCK)

audit: $(AUDIT)/.installed
	$(AUDIT)/bin/cyclonedx-py requirements $(LOCK) --output-file sbom.cdx.json
	$(AUDIT)/bin/pip-audit --disable-pip --require-hashes --requirement $(LOCK)
	for file in $(filter-out $(LOCK),$(wildcard requirements*.txt)); do \
	  $(AUDIT)/bin/pip-audit --requirement $$file || exit 1; done

$(AUDIT)/.installed: | check-python
	@$(PYTHON) -m venv $(AUDIT)
	@$(call install,$(AUDIT),pip-audit cyclonedx-bom uv)
	@touch $@

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml | check-python
	@echo "Installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(call install,$(VENV),--requirement requirements.txt)
	@touch $@

$(DEV)/.installed: requirements.txt requirements-dev.txt pyproject.toml | check-python
	@echo "Installing into $(DEV) ..."
	@$(PYTHON) -m venv $(DEV)
	@$(call install,$(DEV),--requirement requirements.txt --requirement requirements-dev.txt)
	@touch $@

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer; pass PYTHON=/path/to/python3.11" >&2; exit 2; }

clean:
	rm -rf .venv .pytest_cache .ruff_cache
