# `make test` and `make demo` are all that a fresh machine needs: each makes the environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install check test test-gpu demo bench fixture

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make the virtual environment and install everything into it

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (torch and its libraries are about 5 GB)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,report]'
	@touch $(STAMP)

check: $(STAMP) ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP) ## All tests that need no GPU
	$(BIN)/python -m pytest

test-gpu: $(STAMP) ## The tests that need a GPU; fails without one
	RELABEL_REQUIRE_CUDA=1 $(BIN)/python -m pytest -m cuda

demo: $(STAMP) ## Teacher, store, labels of crops on real digit scans, in minutes on a CPU
	$(BIN)/python pipelines/demo.py

bench: $(STAMP) ## Speed and size, each beside a peer in the same run
	$(BIN)/python -m bench.run

fixture: $(STAMP) ## Freeze a new store fixture; see CONTRIBUTING.md first
	$(BIN)/python tests/make_fixture.py
