# make demo     sets everything up and runs a few hundred orders through four databases
# make test     sets everything up, checks the code and runs the tests: some minutes
# make drill    kills every process at every point, under load: the whole matrix, some minutes; a page in build/drills
# make soak SAGAS=10000   sagas, a fifth of them refused, while processes are killed at random: some minutes
# make bench    two-phase commit against saga, crashes included: a report in build/bench; docs/benchmarks
# make transfers   transfers, beside a hand-written loop, SQLAlchemy and DBOS: two minutes; docs/performance.md
# make scale    many participants, many transactions at once, a long history: some minutes
# make counts   what a transaction costs in messages, syncs and statements; ARGS=--write makes that the baseline
# make search   every interleaving of the protocol, by exhaustive search: some minutes
# make simulate SEEDS=100000   the whole system on virtual time, under seeds: every failure, every order
# make lint     only the checks;  make unit  only the tests;  make unit ARGS="-m long"  only those that take long
# make protos   generates the Python code of the contract again, after a change of the .proto files
# make baseline takes today's contract as the one later changes must not break: once for each release
# make clean    removes what make made
#
# ARGS goes to the command:        make demo ARGS="--orders my-orders.csv"    make unit ARGS="tests/contract -x"
# PYTHON is the Python to use:     make test PYTHON=python3.13

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
            $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))) python3)
VENV   := .venv
TOOLS  := .venv-protos
BIN    := $(VENV)/bin
ARGS   ?=
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
# The pins hold for what builds the project, too: an older pip takes the first variable for that, a newer one the second.
PINNED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(PIP)

# Stamps: what `make demo` needs, what the tests need besides, and the compiler of the contract, which must stay apart.
READY  := $(VENV)/.ready
DEV    := $(VENV)/.ready-dev
PROTOC := $(TOOLS)/.ready

.PHONY: setup demo drill soak bench transfers scale counts search simulate test lint unit protos protos-tools baseline clean
.DELETE_ON_ERROR:

setup: $(DEV) $(PROTOC)

# An environment whose creation was interrupted has no working pip, and is made again.
define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "twophase needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name another one:  make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: its venv module is not installed." >&2; \
	  echo "On Debian and Ubuntu:  apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
endef

$(READY): pyproject.toml constraints.txt
	$(make_venv)
	@echo "installing twophase and its Postgres into $(VENV) (once) ..."
	@$(PINNED) install -e '.[sandbox]'
	@touch $@

# Also all that $(READY) stands for, in one go: `make test` on a fresh machine resolves once.
$(DEV): pyproject.toml constraints.txt
	$(make_venv)
	@echo "installing twophase, its Postgres, the benchmark's contenders and the test tools into $(VENV) (once) ..."
	@$(BIN)/python -c 'import sys, pip; sys.exit([int(n) for n in pip.__version__.split(".")[:2]] < [25, 1])' \
	  || $(PIP) install --upgrade 'pip>=25.1'
	@$(PINNED) install -e '.[bench]' --group dev
	@touch $(READY) $@

$(PROTOC): $(DEV) tests/tools/protos-constraints.txt
	@echo "installing the compiler of the contract into $(TOOLS) (once) ..."
	@$(BIN)/python -m venv --clear --without-pip $(TOOLS)
	@$(PIP) --python $(TOOLS)/bin/python install -r tests/tools/protos-constraints.txt
	@touch $@

protos-tools: $(PROTOC)

demo: $(READY)
	@$(BIN)/twophase demo $(ARGS)

drill: $(READY)
	@$(BIN)/twophase drill --html build/drills/$$(date -u +%Y%m%dT%H%M%SZ).html $(ARGS)

SAGAS ?= 10000
soak: $(READY)
	@$(BIN)/twophase soak --sagas $(SAGAS) $(ARGS)

bench: $(DEV)
	@$(BIN)/twophase bench report --out build/bench $(ARGS)

transfers: $(DEV)
	@$(BIN)/twophase bench transfer $(ARGS)

scale: $(DEV)
	@$(BIN)/twophase bench scale $(ARGS)

counts: $(DEV)
	@$(BIN)/twophase bench counts $(ARGS)

search: $(DEV)
	@$(BIN)/python tests/search/report.py $(ARGS)

SEEDS ?= 20000
simulate: $(DEV)
	@PYTHONHASHSEED=0 $(BIN)/python tests/simulation/report.py $(SEEDS) $(ARGS)

test: lint unit

lint: $(DEV)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy

# pytest keeps what tests wrote for whoever wants to look; run from here, nothing stays behind. Tests start hundreds of
# processes: whatever the environment says of bytecode, not each of them is to compile the project anew.
unit: $(DEV) $(PROTOC)
	@kept=$$(mktemp -d) && trap 'rm -rf "$$kept"' EXIT && trap 'exit 130' INT TERM; unset PYTHONDONTWRITEBYTECODE; \
	$(BIN)/pytest -q -n 3 --dist worksteal --basetemp="$$kept/pytest" $(ARGS)

protos: $(PROTOC)
	@$(BIN)/buf format --write
	@$(BIN)/buf lint
	@$(BIN)/python tests/tools/generate_protos.py

baseline: $(DEV)
	@$(BIN)/buf build --exclude-source-info -o tests/contract/baseline.binpb
	@echo "tests/contract/baseline.binpb is the contract as it is now"

clean:
	rm -rf $(VENV) $(TOOLS) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
