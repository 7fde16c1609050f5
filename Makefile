# make demo   the whole graph on the embedded default: which clips teach the motion, and did it help
# make test   the tests that guard every change
# make test-slow  the tests that take minutes
# make coverage  make test with the lines that no test runs (slower: every line is traced)
# make fuzz   random tables, captions and archives, 2,000 of each kind (make test runs 100)
# make lowest the lowest versions that pyproject.toml allows, in .venv-lowest, and the tests marked smoke
# make lint   the linters, one target each; the hooks of pre-commit call the same targets
# make docs   the site of docs/ in build/site; a broken link fails (.venv/bin/mkdocs serve shows it while one writes)
# make golden  compare the finished demo's ranking, subsets and scores with the committed record (benchmarks/golden)
# make audit  the demo with the costly checks of its audit (half an hour of trainings at most, after the demo itself; again: it goes on)
# make seeds  the demo over generator seeds 100-104, written to docs/demo_seeds.md (hours)
# make crash  kill the graph at 50 random instants and compare the end (about an hour)
# make dev    the Dagster UI on http://127.0.0.1:3000 (MOTIVE_CONFIG=my.yaml for another config)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG := $(abspath $(or $(MOTIVE_CONFIG),motive.yaml))
PORT ?= 3000
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --max-worker-restart 0 --dist loadscope --no-loadscope-reorder

.PHONY: install install-dev demo audit dev test coverage test-slow fuzz lowest lint lint-ruff lint-types lint-layers golden seeds crash docs
install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[view]"
	@touch $@

# the linters, and what only tests need: servers for object storage, Ray
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: install
	MOTIVE_CONFIG="$(CONFIG)" $(BIN)/motive run --summary

audit: install
	MOTIVE_CONFIG="$(abspath configs/demo_audit.yaml)" $(BIN)/motive run --summary

dev: install
	MOTIVE_CONFIG="$(CONFIG)" $(BIN)/python -m assets.dev --port $(PORT)

test: install-dev
	$(PYTEST) -m "not slow"

coverage: install-dev
	$(PYTEST) -m "not slow" --cov --cov-report=term

test-slow: install-dev
	$(PYTEST) -v -m slow

fuzz: install-dev
	FUZZ_EXAMPLES=2000 $(BIN)/python -m pytest tests/sources/test_any_input.py --timeout 0

lowest:
	@test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest.py > .venv-lowest/lowest.txt
	nice .venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lowest/lowest.txt -e ".[dev]"
	nice .venv-lowest/bin/python -m pytest -m smoke

lint: lint-ruff lint-types lint-layers

lint-ruff: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: install-dev
	$(BIN)/pyright

lint-layers: install-dev
	@! grep -rnE '^[[:space:]]*(import|from) dagster' motive_pipeline || { echo 'motive_pipeline/ must not import dagster'; exit 1; }

docs: install-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

golden: install
	$(BIN)/python -m benchmarks.golden $(GOLDEN)

seeds: install
	$(BIN)/python -m benchmarks.demo_seeds --seeds 100-104 --split spoiled --split confound --jobs 2 --set engine.threads=1 --record docs/demo_seeds.csv --write docs/demo_seeds.md

crash: install-dev
	$(BIN)/python -m tests.crash --kills 50
