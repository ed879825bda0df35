# `make help` lists what can be made. Nothing needs to be installed first but python3 and a C compiler.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CC ?= cc
# Test files that are run side by side: their processes wait most of the time.
JOBS ?= 2
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

CORE := $(wildcard csrc/*.c csrc/*.h spark_fast/*.pyx spark_fast/*.pxd) setup.py pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help build demo test test-c test-others test-python verify bench lint types wheel screenshots clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## /  make \1\t/' | expand -t 18

# One stamp for each set of packages, so that the demo does not wait for the test tools.
$(VENV)/made: $(CORE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip 'setuptools>=77' 'cython>=3.1'
	$(PIP) --no-build-isolation --editable '.[demo]'
	touch $@

$(VENV)/made-test: $(VENV)/made tests/requirements.txt
	$(PIP) --requirement tests/requirements.txt
	touch $@

$(VENV)/made-bench: $(VENV)/made-test bench/requirements.txt
	$(PIP) --requirement bench/requirements.txt
	touch $@

build: $(VENV)/made  ## the virtual environment, with the package built in place

demo: $(VENV)/made  ## a training that another process pauses, advances, resumes, edits and stops
	$(BIN)/spark-fast demo

test: test-c test-python  ## all tests

test-others: $(VENV)/made-test  ## the tests of the package, on every other CPython of this machine
	set -e; for python in $$($(BIN)/python tests/interpreters.py); do \
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "== CPython $$version"; \
	    $(MAKE) --no-print-directory test-python PYTHON=$$python VENV=.venv-$$version PYTEST_ARGS=--ignore=tests/model; \
	done

test-python: $(VENV)/made-test
	$(BIN)/python -m pytest tests --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --benchmark-disable $(PYTEST_ARGS)

test-c:  ## the tests of the C core, under the sanitizers
	$(MAKE) -C tests/c CC=$(CC)

verify:  ## how ranks agree, as a model that is searched exhaustively; needs spin
	$(PYTHON) tests/model/verify.py

bench: $(VENV)/made-bench  ## all figures; writes docs/benchmarks.md and those of README
	$(BIN)/python -m bench

lint: $(VENV)/made-test  ## style, of Python, Cython and C
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" cython-lint spark_fast/*.pyx spark_fast/*.pxd
	$(BIN)/clang-format --dry-run --Werror csrc/*.[ch] tests/c/*.[ch] bench/*.c

types: $(VENV)/made-test  ## types, and the stub against the built module
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest spark_fast._core

wheel: $(VENV)/made-test  ## a wheel and a source distribution, in dist/
	$(BIN)/python -m build --outdir dist .

screenshots: $(VENV)/made-test  ## the pictures of the web page, in docs/images; needs Debian's chromium
	$(BIN)/python -m tests.screenshots

clean:  ## removes what was made
	rm -rf $(VENV) build dist *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis spark_fast/*.so
	$(MAKE) -C tests/c clean
