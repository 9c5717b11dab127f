# make demo: the whole path on a small synthetic release -> demo/report.html
# CXRDALI_CUDA=12 before any of them: torch and DALI for a CUDA 12 driver
# make test: ruff, mypy, import-linter and all tests; make test-fast: without the slow tests, under 3 minutes on 2 cores
PYTHON ?= python3
BIN := .venv/bin
# a file of tests stays in one process, which makes its fixtures once
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-fast lint clean
demo: .venv/installed
	$(BIN)/cxrdali demo --out demo

test: lint
	$(PYTEST) -m "slow or not slow"

test-fast: lint
	$(PYTEST)

lint: .venv/for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# A stamp is newer than setup.cfg only after a complete installation, so a cut-off one is done again.
.venv/installed: setup.cfg setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar off -e .
	touch $@

.venv/for-tests: .venv/installed
	$(BIN)/python -m pip install --progress-bar off -e '.[test]'
	touch $@

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
