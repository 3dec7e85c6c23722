# Two commands set a fresh machine up, each in a virtual environment of its own:
#   make demo    the whole story on the embedded corpus (base install, .venv)
#   make test    all checks (.venv-test)
PYTHON ?= python3
SHELL := /bin/bash
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export GRPC_VERBOSITY = NONE
# Real recordings, where they lie beside the checkout; tests that need them are skipped elsewhere.
ifndef SERVAX_DATA
ifneq ($(wildcard ../shared/data),)
export SERVAX_DATA := $(abspath ../shared/data)
endif
endif

BASE := .venv
TEST := .venv-test

.PHONY: demo test checks lint types imports base docs package story-demo story-paper pytest format lock clean

demo: $(BASE)/ready
	$(BASE)/bin/servax demo

# What needs one environment runs beside what needs the other; the tests come last.
test:
	$(MAKE) -j2 --output-sync=target checks
	$(MAKE) pytest

# The longest first, so that it has company to its end.
checks: story-demo lint types imports base docs package story-paper

$(BASE)/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "servax needs Python 3.11 to 3.13, this is " + sys.version + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(BASE)
	$(BASE)/bin/pip install -q -r requirements.txt
	$(BASE)/bin/pip install -q --no-deps -e .
	touch $@

$(TEST)/ready: requirements-dev.txt requirements-oracles.txt pyproject.toml
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/pip install -q -r requirements-dev.txt
	$(TEST)/bin/pip install -q --no-deps -r requirements-oracles.txt
	$(TEST)/bin/pip install -q --no-deps pesq==0.0.4 || echo "PESQ is left out: it needs a C compiler"
	$(TEST)/bin/pip install -q --no-deps -e .
	touch $@

lint: $(TEST)/ready
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/ruff check .

types: $(TEST)/ready
	$(TEST)/bin/mypy

imports: $(TEST)/ready
	$(TEST)/bin/lint-imports

# Every module imports with the base install alone.
base: $(BASE)/ready
	$(BASE)/bin/python .ci/import_all.py

docs: $(TEST)/ready
	$(TEST)/bin/mkdocs build --strict --quiet --site-dir $(TEST)/site

# Sdist and wheel build, and work in an environment that holds the base alone.
package: $(TEST)/ready
	$(TEST)/bin/python .ci/package.py $(TEST)/package

# The README's demo and the paper's evaluation in small, from the base install, into folders that
# the tests then use.
story-demo: $(BASE)/ready
	rm -rf $(TEST)/demo
	$(BASE)/bin/servax demo --out $(TEST)/demo

story-paper: $(BASE)/ready
	rm -rf $(TEST)/paper
	$(BASE)/bin/servax run recipes/synthetic_paper.yaml --out $(TEST)/paper

pytest: $(TEST)/ready
	mkdir -p $(TEST)/artefacts
	SERVAX_DEMO=$(abspath $(TEST))/demo SERVAX_PAPER=$(abspath $(TEST))/paper \
		SERVAX_ARTEFACTS=$(abspath $(TEST))/artefacts $(TEST)/bin/pytest -q -n 2

format: $(TEST)/ready
	$(TEST)/bin/ruff format .
	$(TEST)/bin/ruff check --fix .

lock: $(TEST)/ready
	$(TEST)/bin/python .ci/lock.py

clean:
	rm -rf $(BASE) $(TEST) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
