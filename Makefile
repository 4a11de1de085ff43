PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-all chaos bench lint format clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-9s %s\n", $$1, $$2}'

# torch comes first and by itself: a later resolve then keeps this build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt torch
	$(BIN)/pip install -c constraints.txt -e ".[demo,data,dev]"
	touch $@

demo: $(STAMP) ## train on embedded digits, then draw, caption and report
	$(BIN)/braid demo --out runs/demo

# One thread for each of the two workers.
test: $(STAMP) ## the quick suite, on a CPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n 2

test-all: $(STAMP) ## every test, the slow ones and those for a GPU too
	$(BIN)/python -m pytest

chaos: $(STAMP) ## kill, damage, fill and stop runs; one line for each disturbance
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos

bench: $(STAMP) ## measure what fits on two cores, a line each; writes docs/speed.md
	$(BIN)/python benchmarks/run.py
	$(BIN)/python docs/make_speed.py

lint: $(STAMP) ## style, format, types and import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite in place what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build output; keeps .venv and runs
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +
