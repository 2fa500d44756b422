# Fedward's commands. Each one makes the environment in .venv first, when it is missing or older than what it is made from.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS ?= 2
FOLDERS := study privacy client server dashboard simulations cli
export PYTHONDONTWRITEBYTECODE ?=
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.PHONY: help demo monitor test coverage lint bench prove bundle clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    four hospitals train one model on this machine (DEMO='--rounds 10 --no-dp …')"
	@echo "make monitor look at a federation in the browser (MONITOR='--store DIR'), or at a run (MONITOR=RUN)"
	@echo "make test    lint, types, contracts and every test"
	@echo "make coverage  every test, watched, with a floor of 90%: it takes half as long again"
	@echo "make lint    ruff, mypy, import contracts, docs"
	@echo "make bench   the figures of benchmarks/, with their peers (ONLY=foundation,…)"
	@echo "make prove   what is exhaustive, resumable (ONLY=foundation,…)"
	@echo "make bundle  the offline kit, signed, in dist/ (BUNDLE='--key FILE …'); see docs/offline-kit.md"
	@echo "make clean   remove the environment, caches and demo folders"

$(READY): pyproject.toml constraints.txt Makefile
	@echo "== making the environment in $(VENV) (a minute or two) =="
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Fedward needs Python 3.11 or newer, this is {v[0]}.{v[1]}")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== installing torch (CPU) =="
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@echo "== installing Fedward and the tested set of constraints.txt =="
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[monitor,explain,simulation,postgresql,dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/fedward demo $(DEMO)

monitor: $(READY)
	@$(BIN)/fedward monitor $(MONITOR)

lint: $(READY)
	@echo "== ruff ==" && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy ==" && $(BIN)/mypy $(FOLDERS) benchmarks scripts
	@echo "== import contracts ==" && $(BIN)/lint-imports

test: lint
	@echo "== tests =="
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup

coverage: $(READY)
	@$(BIN)/coverage erase
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --cov --cov-report=
	@$(BIN)/coverage report --fail-under=90

bench: $(READY)
	@$(BIN)/python benchmarks/run.py $(if $(ONLY),--only $(ONLY))

prove: $(READY)
	@FEDWARD_REQUIRE_ALL=1 $(BIN)/python scripts/prove.py $(if $(ONLY),--only $(ONLY))

bundle: $(READY)
	@$(BIN)/python -m scripts.bundle $(BUNDLE)

clean:
	@rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache .prove .bench .coverage .coverage.* build dist fedward-demo-*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean"
