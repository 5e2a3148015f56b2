# The one door: every target sets up what it needs, in .venv of this folder. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BROWSER := $(VENV)/.browser

.PHONY: help demo test test-all lint bench planted review wheel clean

help:
	@echo "make demo      set up, audit the embedded corpus and model, write the report"
	@echo "make test      set up, run the fast tests"
	@echo "make test-all  run the slow tests too"
	@echo "make lint      ruff, mypy, import contracts"
	@echo "make bench     naive loop against the engine, and what a pair costs, as ratios"
	@echo "make planted   does the audit find what was planted: trains models, audits them (hours, an hour from cache)"
	@echo "make review    show lake/ as pages in the browser"
	@echo "make wheel     build the wheel into dist/"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.11 to 3.13 is needed, got $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Some tests drive a real browser. Where none may be installed they say so and are skipped (with CI set, they fail).
$(BROWSER): | $(STAMP)
	@sh .ci/browser >/dev/null 2>&1 || true
	@touch $@

demo: $(STAMP)
	$(BIN)/m2ib-audit demo

test: $(STAMP) $(BROWSER)
	$(BIN)/python -m pytest

test-all: $(STAMP) $(BROWSER)
	$(BIN)/python -m pytest -m ''

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.cost

planted: $(STAMP)
	$(BIN)/python -m benchmarks.planted

review: $(STAMP)
	$(BIN)/m2ib-audit review

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
