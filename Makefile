# `make demo` and `make test` do all their own set-up: a virtual environment in .venv, torch, the package.
# Python 3.11 or newer is all they ask for. The first run takes minutes, the next ones start at once.
#
#   make demo     a small model runs with a quarter of its experts in memory
#   make test     the fast, representative tests
#   make model    train a small model from this machine's own text (90 minutes)
#   make check    the long form, in pieces that resume; writes its tables to benchmarks/
#   make lint     style, types, import floors, size budgets
#   make docs     write docs/cli.md and docs/families.md anew from what they describe
#   make wheel    build the wheel into dist/
#   make clean    remove the virtual environment and everything built

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
# Anything pip understands: TORCH='torch==2.13.0 --index-url ...' picks another build.
TORCH ?= torch==2.13.0
# editable: the tests see src/ as it is. wheel: they see the built wheel, as a user would.
INSTALL ?= editable
PYTEST_ARGS ?=
# About half of the tests' processor time goes to processes that they start.
PARALLEL ?= -n 2 --dist loadfile
# Held-out bits per byte of what `make model` trains, at most.
MODEL_BOUND := 1.75

PY := $(VENV)/bin/python
READY := $(VENV)/.ready-$(INSTALL)
SOURCES := $(shell find src -type f -not -path '*/__pycache__/*' 2>/dev/null)
NATIVE := $(wildcard src/locum/native/*.cpp src/locum/native/*.h src/locum/native/CMakeLists.txt)
WHEEL_STAMP := dist/.built

.PHONY: help setup demo model test test-portable check docs wheel wheel-portable clean
.PHONY: lint lint-style lint-format lint-types lint-imports lint-size

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)

demo: $(READY)
	@$(PY) scripts/demo.py

test: $(VENV)/.test
	@$(PY) -m pytest -m "not check" $(PARALLEL) $(PYTEST_ARGS)

# The portable path, forced: no direct I/O, no native library. Which family or format it is makes no difference.
test-portable: $(VENV)/.test
	@LOCUM_MOVER=pagecache LOCUM_KERNELS=reference $(PY) -m pytest -m "not check" $(PARALLEL) tests/store \
		tests/engine tests/native tests/analyze tests/simulate --ignore=tests/engine/test_families.py \
		--ignore=tests/engine/test_gguf.py $(PYTEST_ARGS)

# Without a compiler there must still be a wheel, a pure one.
wheel-portable: $(VENV)/.torch
	@rm -rf build/portable && CXX=/bin/false $(PY) -m pip wheel --quiet --no-deps --wheel-dir build/portable .
	@ls build/portable/locum-*-py3-none-any.whl

# Stop with Ctrl-C, and go on later; MODEL_ARGS="--minutes 10" for a quick look. A whole run has a bound to reach.
model: $(READY)
	@$(PY) -m locum.train --out build/locum-tiny $(MODEL_ARGS)
	@$(PY) -m locum.train.card build/locum-tiny $(if $(MODEL_ARGS),,--bound $(MODEL_BOUND))

check: $(VENV)/.test $(VENV)/.bench
	@$(PY) scripts/check.py

# `make -k lint` goes on after a failure and shows them all.
lint: lint-style lint-format lint-types lint-imports lint-size

lint-style: $(VENV)/.lint
	$(VENV)/bin/ruff check .

lint-format: $(VENV)/.lint
	$(VENV)/bin/ruff format --check .

lint-types: $(VENV)/.lint $(VENV)/.test $(VENV)/.bench
	$(VENV)/bin/mypy

lint-imports: $(VENV)/.lint
	$(VENV)/bin/lint-imports

lint-size: $(READY)
	$(PY) scripts/size_budget.py

docs: $(READY)
	@$(PY) scripts/cli_docs.py
	@$(PY) scripts/families_docs.py

wheel: $(WHEEL_STAMP)

clean:
	rm -rf $(VENV) dist build .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# ---- set-up ----

# torch comes first and alone, so that nothing the package asks for can choose another one.
$(VENV)/.torch: scripts/new_venv.sh
	@echo "locum: making $(VENV) and installing torch first (once; this takes a minute or more)"
	@scripts/new_venv.sh $(VENV)
	@$(PY) -m pip install --quiet --upgrade 'pip>=25.1'
	@$(PY) -m pip install --quiet $(TORCH)
	@touch $@

$(VENV)/.ready-editable: $(VENV)/.torch pyproject.toml $(NATIVE)
	@echo "locum: installing the package and what it needs"
	@$(PY) -m pip install --quiet --editable .
	@rm -f $(VENV)/.ready-wheel && touch $@

$(VENV)/.ready-wheel: $(VENV)/.torch $(WHEEL_STAMP)
	@echo "locum: installing the wheel and what it needs"
	@$(PY) -m pip install --quiet dist/*.whl
	@$(PY) -m pip install --quiet --force-reinstall --no-deps dist/*.whl
	@rm -f $(VENV)/.ready-editable && touch $@

$(WHEEL_STAMP): $(VENV)/.torch pyproject.toml README.md LICENSE $(SOURCES)
	@rm -rf dist
	@$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist .
	@touch $@

# One rule for the tool groups of pyproject.toml: .test, .lint, .bench.
$(VENV)/.test $(VENV)/.lint $(VENV)/.bench: $(VENV)/.%: $(READY)
	@echo "locum: installing the tools for $*"
	@$(PY) -m pip install --quiet --group $*
	@touch $@
