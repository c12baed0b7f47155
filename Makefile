# make demo | test | test-slow | lint | docs | bench
# Each makes .venv with plain `python3 -m venv` and pip, installs what it needs once, and runs. PYTHON=python3.12 picks another.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

# Versions come from constraints.txt, also inside the build of the package itself; wheels only, nothing is compiled.
export PIP_CONSTRAINT := constraints.txt
export PIP_ONLY_BINARY := :all:
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests and type checks share few cores: one thread a process is the fastest.
SINGLE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help demo test test-slow lint docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo        install, run the main job on packaged weights, end with the path of a report"
	@echo "make test        lint, types, floors and the fast tests"
	@echo "make test-slow   the tests that take longer"
	@echo "make lint        lint, types and floors alone"
	@echo "make docs        the site, into site/"
	@echo "make bench       our speed beside that of others, on this machine"

demo: $(VENV)/.stamp-demo
	$(BIN)/percepta demo

test: lint
	$(SINGLE) $(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(VENV)/.stamp-test
	$(SINGLE) $(BIN)/python -m pytest -m slow

lint: $(VENV)/.stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.stamp-docs
	$(BIN)/zensical build --strict --clean

bench: $(VENV)/.stamp-test
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) site

# A stamp says that an extra is installed; it is made again when the versions or the dependencies change.
$(VENV)/.stamp-%: $(VENV)/.stamp-venv pyproject.toml constraints.txt
	@echo "Installing percepta[$*] into $(VENV); with torch this is about 5 GB and takes a few minutes the first time."
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Percepta needs Python 3.11 or newer and $(PYTHON) is not; name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "$(PYTHON) cannot make virtual environments; install its venv module (on Debian and Ubuntu: python3-venv)."; exit 1; }
	@touch $@
