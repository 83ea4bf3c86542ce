# Each target installs what it needs into .venv; a second call skips the installation.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= demo
# make test: number of test processes
JOBS ?= 2
# make soak: number of kills, or minutes, after which it ends
KILLS ?=
MINUTES ?= $(if $(KILLS),,10)

.PHONY: demo fast test lint soak clean

demo: $(VENV)/.demo-installed
	$(BIN)/egoexo-tools demo $(DEMO_DIR)

# Tests without the marks slow, gpu and network: under a minute on one core.
fast: $(VENV)/.test-installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "not slow and not gpu and not network"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal -q --durations=25

soak: $(VENV)/.test-installed
	OMP_NUM_THREADS=1 $(BIN)/python scripts/soak.py $(if $(KILLS),--kills $(KILLS)) $(if $(MINUTES),--minutes $(MINUTES))

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO_DIR) .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# requirements.lock pins every version; the demo skips packages that only tests and FastSAM need.
# editable_mode=compat puts this folder on the path of every process, so that a folder of the same
# name, such as tests/egoexo_tools, is not found first.
$(VENV)/.demo-installed: pyproject.toml requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint requirements.lock \
	  --config-settings editable_mode=compat --editable '.[model,report]'
	@touch $@

$(VENV)/.test-installed: pyproject.toml requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --config-settings editable_mode=compat --editable .
	@touch $@ $(VENV)/.demo-installed
