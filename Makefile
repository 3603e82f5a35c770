# What a clean clone can do with only Python and make; `make help` lists it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal
ARGS   ?=

# Where an image sets it, every process that a test starts would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-all check lint types arm docs clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(VENV)/.demo  ## run EfficientNet-Lite0 from its card to a proven INT8 file, and show it
	$(BIN)/mbdeploy demo $(ARGS)

test: $(VENV)/.dev  ## every test but the long sweeps
	$(PYTEST) -m "not sweep" $(ARGS)

test-quick: $(VENV)/.dev  ## the tests that take seconds
	$(PYTEST) -m "not slow and not sweep" $(ARGS)

test-all: $(VENV)/.dev  ## every test
	$(PYTEST) $(ARGS)

check: lint types test-quick  ## what to run before a commit

lint: $(VENV)/.dev  ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## mypy, strict (see pyproject.toml)
	$(BIN)/mypy

arm: $(VENV)/.dev  ## build the emulated ARM that tests and --provider arm use, in the cache
	$(BIN)/mbdeploy targets setup qemu --cpu cortex-a53 --cpu cortex-a76

docs: $(VENV)/.dev  ## write the generated pages again: docs/cli.md, docs/cards.md
	$(BIN)/python docs/generate.py

clean:  ## remove the environment, caches and results
	rm -rf $(VENV) out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment for both; each stamp says that the extra of its name is installed.
$(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

.PRECIOUS: $(VENV)/.%
