# Every target sets up what it needs, in .venv of this folder. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
BROWSER := $(VENV)/.browser
# One process for each core, at most eight; the tests of a file stay together, since they share what is slow to make.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile

.PHONY: help install demo test test-all lint bench planted review wheel clean

help:
	@echo "make demo      set up, audit the embedded corpus and model, write the report"
	@echo "make install   set up .venv, nothing else"
	@echo "make test      set up, run the fast tests"
	@echo "make test-all  run the slow tests too"
	@echo "make lint      ruff, mypy, import contracts"
	@echo "make bench     compare the engine with the naive loop; show the cost per pair, as ratios"
	@echo "make planted   audit models with planted shortcuts and report what is found (hours; less from cache)"
	@echo "make review    serve the review site for lake/"
	@echo "make wheel     build the wheel into dist/"

.PHONY: python
python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.11 to 3.13 is needed, got $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.11"; exit 2; }

$(BASE): pyproject.toml constraints.txt | python
	@PYTHON=$(PYTHON) sh .ci/install
	@touch $@

$(DEV): pyproject.toml constraints.txt | python
	@PYTHON=$(PYTHON) sh .ci/install '[dev]'
	@touch $@ $(BASE)

# Some tests drive a real browser. Where none can be installed they are skipped with a reason (with CI set, they fail).
$(BROWSER): | $(DEV)
	@echo "looking for a browser for the tests of the site, installing Chromium if there is none"
	@sh .ci/browser >/dev/null 2>&1 || echo "no browser could be installed: its tests are skipped"
	@touch $@

install: $(BASE)

demo: $(BASE)
	$(BIN)/m2ib-audit demo

test: $(DEV) $(BROWSER)
	$(BIN)/python -m pytest $(PARALLEL) --durations=40

test-all: $(DEV) $(BROWSER)
	$(BIN)/python -m pytest $(PARALLEL) --durations=40 -m ''

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV)
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.cost

planted: $(DEV)
	$(BIN)/python -m benchmarks.planted

review: $(BASE)
	$(BIN)/m2ib-audit review

wheel: $(BASE)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
