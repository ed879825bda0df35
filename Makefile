# `make help` lists what can be made. Nothing needs to be installed first but python3 and a C compiler.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CC ?= cc
# Tests that are run side by side, three for each processor: their processes wait most of the time.
JOBS ?= $(shell expr 3 '*' $$(nproc 2>/dev/null || echo 2))
# Ray, a browser and SPIN use several processors each.
FEW_JOBS ?= $(shell expr 1 + $$(nproc 2>/dev/null || echo 2))
# Of the campaign: how long, and what its jobs and faults are drawn from.
HOURS ?= 1
SEED ?= 1
LOCK := tests/requirements-ci.lock
# LOCKED=1 installs exactly the packages of the lock, checks their hashes, and fetches nothing else.
LOCKED ?=
PIP_LOCK := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(LOCK)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(LOCKED),--no-index)

CORE := $(wildcard csrc/*.c csrc/*.h spark_fast/*.pyx spark_fast/*.pxd spark_fast/*.pxi) setup.py pyproject.toml

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help build demo test-fast test test-python test-more test-all test-beyond test-c test-others system verify \
    bench campaign lint types audit lock wheel screenshots docs clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## /  make \1\t/' | expand -t 22

# One stamp for each set of packages, so that nothing waits for what it does not need.
$(VENV)/made: $(CORE)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(if $(LOCKED),$(PIP_LOCK),$(PIP) --upgrade pip 'setuptools>=77' 'cython>=3.1')
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/made-demo: $(VENV)/made
	$(BIN)/python -m tests.extra demo > $(VENV)/demo.txt
	$(PIP) --requirement $(VENV)/demo.txt
	touch $@

$(VENV)/made-fast: $(VENV)/made tests/requirements-fast.txt
	$(PIP) --requirement tests/requirements-fast.txt
	touch $@

$(VENV)/made-test: $(VENV)/made-fast $(VENV)/made-demo tests/requirements.txt
	$(PIP) --requirement tests/requirements.txt
	touch $@

$(VENV)/made-all: $(VENV)/made-test tests/requirements-all.txt
	$(PIP) --requirement tests/requirements-all.txt
	touch $@

$(VENV)/made-lint: $(VENV)/made-test tests/requirements-lint.txt
	$(PIP) --requirement tests/requirements-lint.txt
	touch $@

$(VENV)/made-ci: $(VENV)/made tests/requirements-ci.txt
	$(PIP) --requirement tests/requirements-ci.txt
	touch $@

$(VENV)/made-docs: $(VENV)/made docs/requirements.txt
	$(PIP) --requirement docs/requirements.txt
	touch $@

$(VENV)/made-bench: $(VENV)/made-all bench/requirements.txt
	$(PIP) --requirement bench/requirements.txt
	touch $@

build: $(VENV)/made  ## the virtual environment, with the package built in place

demo: $(VENV)/made-demo  ## a training that another process pauses, advances, resumes, edits and stops
	$(BIN)/spark-fast demo

# tests/tiers.py says which tests are in which tier.
PYTEST = $(BIN)/python -m pytest tests --numprocesses $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-fast: $(VENV)/made-fast  ## the quick tests, for after each change: 40 seconds on two cores
	$(PYTEST) --tier fast

test: test-c test-python  ## all tests that need python3 and a C compiler: seven minutes on two cores

test-python: test-fast test-more

test-more: $(VENV)/made-test
	$(PYTEST) --tier test

test-all: system test test-beyond  ## all tests: with Ray, a browser, networks and SPIN, for which it installs packages

test-beyond: JOBS = $(FEW_JOBS)
test-beyond: system $(VENV)/made-all  ## what `make test-all` runs beyond `make test`
	$(MAKE) -C tests/c warnings
	$(PYTEST) --tier all

test-c:  ## the tests of the C core, under the sanitizers
	$(MAKE) -C tests/c CC=$(CC)

test-others: $(VENV)/made  ## the tests of the package, on every other CPython of this machine
	set -e; for python in $$($(BIN)/python tests/interpreters.py); do \
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "== CPython $$version"; \
	    $(MAKE) --no-print-directory test-python PYTHON=$$python VENV=.venv-$$version; \
	done

system:  ## the system packages that `make test-all` needs: installs them, or says how
	$(PYTHON) -m tests.system

verify:  ## how ranks agree, as a model that is searched exhaustively; needs spin
	$(PYTHON) tests/model/verify.py

bench: $(VENV)/made-bench  ## all figures; writes docs/benchmarks.md and those of README
	$(BIN)/python -m bench

campaign: $(VENV)/made-all  ## kills, faults and bad inputs for real jobs, for HOURS=1; writes docs/reliability.md
	$(BIN)/python -m tests.campaign --hours $(HOURS) --seed $(SEED)

lint: $(VENV)/made-lint  ## style, of Python, Cython and C; which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	PATH="$(abspath $(BIN)):$$PATH" cython-lint spark_fast/*.pyx spark_fast/*.pxd spark_fast/*.pxi
	$(BIN)/clang-format --dry-run --Werror csrc/*.[ch] tests/c/*.[ch] bench/*.c

types: $(VENV)/made-lint  ## types, and the stub against the built module
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest spark_fast._core

audit: $(VENV)/made-ci  ## known vulnerabilities of the packages in the lock
	$(BIN)/python -m tests.audit

lock: $(VENV)/made-ci  ## the newest packages that the lists allow, with their hashes, for .ci/run
	CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/python -m piptools compile --quiet --upgrade --generate-hashes --allow-unsafe \
	    --strip-extras --all-extras --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    --no-emit-options --output-file $(LOCK) pyproject.toml \
	    tests/requirements-all.txt tests/requirements-lint.txt tests/requirements-ci.txt

wheel: $(VENV)/made-test  ## a wheel and a source distribution, in dist/
	$(BIN)/python -m build --outdir dist .

screenshots: $(VENV)/made-all  ## the pictures in docs/images; needs Debian's chromium and tmux
	$(BIN)/python -m tests.recording
	$(BIN)/python -m tests.screenshots

docs: $(VENV)/made-docs  ## the documentation, with the API reference, in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:  ## removes what was made
	rm -rf $(VENV) build dist *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis spark_fast/*.so
	$(MAKE) -C tests/c clean
