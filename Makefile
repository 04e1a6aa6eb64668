# Everything from nothing but Python, make and a compiler: `make demo`, `make test`.
#
# Overridable: PYTHON (3.11 or newer), VENV, CONSTRAINTS (versions; empty for none), PIP_ARGS,
# TEST_WORKERS (parallel test processes), PYTEST_ARGS, DEMO_OUT, NOT_LOWEST (versions that
# `make test-lowest` takes instead of the lowest).

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
TEST_WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_OUT ?= runs/demo-lora
# Most indexes have CPU builds of the latest torch only. With one that has them all,
#     make test-lowest NOT_LOWEST= PIP_ARGS="--extra-index-url <index of CPU builds>"
NOT_LOWEST ?= $(shell grep ^torch== constraints.txt)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) $(addprefix -c ,$(CONSTRAINTS))
# Each worker computes with one thread: two workers on two cores beat one worker on both.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

.PHONY: help install demo test test-slow test-all test-instructions test-lowest lint format docs bench bench-deps clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: $(STAMP) ## create the virtual environment, or bring it up to date

$(STAMP): setup.cfg setup.py pyproject.toml requirements-demo.txt requirements-test.txt $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("subkern needs Python 3.11 or newer: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[hub,ray,dev,docs]'
	$(PIP) --no-deps -r requirements-demo.txt -r requirements-test.txt
	@touch $@

demo: $(STAMP) ## which LoRA rank does SmolLM2 need on film reviews? (resumes, or says "up to date")
	$(BIN)/subkern analyze lora --model demo:smollm2 --task mr --data demo --shots 16 --seed 13 \
		--ranks 1,2,4,8,16,32 --adapter-seeds 3 --targets all-linear --test-limit 200 \
		--no-rates --out $(DEMO_OUT)

test: $(STAMP) ## all tests that take seconds
	$(PYTEST) -m "not slow"

test-slow: $(STAMP) ## the tests that take longer
	$(PYTEST) -m slow

test-all: $(STAMP) ## all tests
	$(PYTEST)

test-instructions: $(STAMP) ## the numerical tests with the oldest instructions of a processor
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 \
		$(PYTEST) -m "not slow" tests/subkern

test-lowest: build/lowest.txt ## the tests of `make test` with the lowest versions that setup.cfg promises
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=$<

build/lowest.txt: setup.cfg .ci/lowest.py
	@mkdir -p $(@D)
	$(PYTHON) .ci/lowest.py $(NOT_LOWEST) > $@

lint: $(STAMP) ## style, format, types, imports that go one way, and one spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

format: $(STAMP) ## put imports and layout in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## build the site, build/docs/index.html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs

bench: $(STAMP) ## time kernels and projections against other ways to compute them, 15 minutes
	$(BIN)/python -m benchmarks --out runs/bench

bench-deps: $(STAMP) ## fetch the projections of TRAK and bergson, for `make bench`
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) --upgrade --no-deps \
		--target runs/bench-deps -r requirements-bench.txt

clean: ## remove caches and build products; runs and the environment stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
