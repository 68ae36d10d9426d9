# `make test` and `make demo` are all that a fresh machine needs: each makes the environment first.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ROOM :=
OLDEST_PYTHON ?= python3.11
# A process per core, each with files of its own; starting them takes longer than the tests of a room.
ALONGSIDE := -n auto --maxprocesses 8 --dist loadfile

# Tests that draw their examples.
LAWS = $(shell grep -rl 'import.* given' tests)

# Of one room: its tests and its doctests.
room = $(wildcard tests/$(ROOM) tests/test_$(ROOM).py tests/test_$(ROOM)_*.py relabel/$(ROOM) relabel/$(ROOM).py)

.DEFAULT_GOAL := help
.PHONY: help install check test test-gpu test-oldest demo bench overhead laws edits faults damage fuzz replaced views lies fixture

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make the virtual environment and install everything into it

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (torch and its libraries are about 5 GB)"
	$(PIP) 'pip>=25.1'  # the first that knows --group
	$(PIP) -c $(CONSTRAINTS) -e '.[report,transformers]' --group dev
	@touch $(STAMP)

check: $(STAMP) ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP) ## All tests that need no GPU; with ROOM=store those of a room
	$(if $(and $(ROOM),$(if $(room),,none)),$(error no tests of a room named $(ROOM)))
	$(BIN)/python -m pytest $(if $(ROOM),$(room),$(ALONGSIDE))

test-gpu: $(STAMP) ## The tests that need a GPU; fails without one
	RELABEL_REQUIRE_CUDA=1 $(BIN)/python -m pytest -m cuda

test-oldest: ## All tests with the oldest Python and libraries, in .venv-oldest
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt PYTHON=$(OLDEST_PYTHON)

demo: $(STAMP) ## Teacher, store, labels of crops on real digit scans, in minutes on a CPU
	$(BIN)/python pipelines/demo.py

bench: $(STAMP) ## Speed and size, each beside a peer in the same run
	$(BIN)/python -m bench.run

overhead: $(STAMP) ## What labels cost a training loop: stages, epochs, processes, a step of ResNet-18
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.overhead

laws: $(STAMP) ## The laws with examples that no run before had, twenty times; `make test` has the same ones every time
	for round in $$(seq 20); do HYPOTHESIS_PROFILE=fresh $(BIN)/python -m pytest -q -x $(ALONGSIDE) $(LAWS) || exit 1; done

edits: $(STAMP) ## 2,000 edits of a manifest: each is refused, or changes no label
	cd tests && PYTHONPATH=.. ../$(BIN)/python -m store.manifest_edits 2000

faults: $(STAMP) ## 1,000 faults while a store is written: none loses or changes anything
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.faults --count 1000

damage: $(STAMP) ## 3,000 damages to stores: each is found, none is served, all are mended
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.damage --count 3520

fuzz: $(STAMP) ## A million hostile inputs against every door, for an hour; and stores that mean harm
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.hostile
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.fuzz

replaced: $(STAMP) ## Stores replaced, labelled again and deleted under their readers; and one of 25,000 shards
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.replaced --shards 2000 --workers 8 --many 25000

views: $(STAMP) ## 500 draws of every pipeline that is followed: what is told is what its colours show
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.views --draws 500
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.whole_pixels --draws 500

lies: $(STAMP) ## 60 pipelines that lie, or look as if: each is proved right, refused, or named as out of reach
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.lies

fixture: $(STAMP) ## Freeze a new store fixture; see CONTRIBUTING.md first
	$(BIN)/python tests/make_fixture.py
