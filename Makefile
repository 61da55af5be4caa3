# make demo    sets everything up and runs a few hundred orders through four databases
# make test    sets everything up, checks the code and runs every test
# make protos  generates the Python code of the contract again (needs its own tools, in .venv-protos)
# make clean   removes what make made

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ARGS   ?=

.PHONY: setup demo test lint unit protos clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "twophase needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sandbox]' --group dev
	@touch $(READY)

demo: $(READY)
	@$(BIN)/twophase demo $(ARGS)

test: lint unit

lint: $(READY)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy

unit: $(READY)
	@$(BIN)/pytest -q -n 2 --dist worksteal $(ARGS)

protos:
	@$(PYTHON) tests/tools/generate_protos.py

clean:
	rm -rf $(VENV) .venv-protos .mypy_cache .ruff_cache .pytest_cache dist
