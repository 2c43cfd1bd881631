# make quickstart   set up, distil a student on scikit-learn's digits, print where it is
# make test         set up, lint, types, every test          make test-fast   the quick part of it
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart check test test-fast clean
.DELETE_ON_ERROR:

quickstart: $(INSTALLED)
	$(BIN)/compress distill recipes/quickstart.yaml

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: check
	$(BIN)/pytest

test-fast: check
	$(BIN)/pytest -m "not slow"

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is older. Set PYTHON, as in: make PYTHON=python3.12" >&2; exit 4; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[dev,trt-rtx]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
