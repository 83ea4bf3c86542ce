# `make demo` and `make test` do their own set-up; the second time there is none to do.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= demo
# make test: processes that run the tests
JOBS ?= 2
# make soak: it ends after so many kills, or minutes
KILLS ?=
MINUTES ?= $(if $(KILLS),,10)

.PHONY: demo test lint soak clean

demo: $(VENV)/.demo-installed
	$(BIN)/egoexo-tools demo $(DEMO_DIR)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal -q

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

# requirements.lock pins every version; the demo leaves out what only tests and FastSAM need.
$(VENV)/.demo-installed: pyproject.toml requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[model,report]'
	@touch $@

$(VENV)/.test-installed: pyproject.toml requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@ $(VENV)/.demo-installed
