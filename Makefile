# make quickstart: .venv, install, the five-minute job.  make test: the suite.  make check: lint, types.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install quickstart test test-fast test-slow lint bench clean

install: $(STAMP)

# The constraints pin torch to the release whose CPU build pip takes where one is offered; see constraints.txt.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .[dev,clean,eval,llamacpp,kquants,serve,studio,prefer,bitsandbytes,deepspeed]
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/lingraft quickstart

# Files in their own order: the long ones have few tests, and would else come last, one worker waiting for the other.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST)

test-fast: $(STAMP)
	$(PYTEST) -m "not slow"

test-slow: $(STAMP)
	$(PYTEST) -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
