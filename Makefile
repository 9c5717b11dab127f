# make demo: the whole path on a small synthetic release -> demo/report.html
# make test: ruff and pytest
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean
demo: .venv/installed
	$(BIN)/cxrdali demo --out demo

test: lint
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The stamp is newer than setup.cfg only after a complete installation, so a cut-off one is done again.
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar off -e '.[test]'
	touch $@

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .ruff_cache
