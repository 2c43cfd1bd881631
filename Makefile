# make quickstart   set up, distil a student on scikit-learn's digits, print where it is
# make test         set up, lint, types, every quick and slow test    make test-fast   the quick part of it
# make architectures    every architecture of recipes/results/architectures.md, hours on two cores; goes on where it was
# make faults       kills, full disks, repeated slow tests, types on macOS
# make audit        known vulnerabilities, by pip-audit
# make lowest       the way from quickstart to report with the oldest versions that pyproject.toml allows, in .lowest
# WORKERS processes share the tests, one thread of torch each: make test WORKERS=4
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

unexport PYTHONDONTWRITEBYTECODE # pip compiles nothing, which takes a minute: what is imported is, once

.PHONY: quickstart check test test-fast faults architectures audit lowest clean
.DELETE_ON_ERROR:

quickstart: $(INSTALLED)
	$(BIN)/compress distill quickstart

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	printf '%s\n' Linux Windows | xargs -P $(WORKERS) -I{} $(BIN)/pyright --pythonplatform {}
	$(BIN)/lint-imports

test: test-fast
	$(PYTEST) --durations 20 -m "slow and not faults"

test-fast: check
	$(PYTEST) -m "not slow and not faults"

faults: $(INSTALLED)
	$(BIN)/pyright --pythonplatform Darwin
	$(PYTEST) -m faults

architectures: $(INSTALLED)
	nice $(BIN)/python tools/bench/architectures.py --page recipes/results/architectures.md

audit: $(INSTALLED)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python tools/audit.py

lowest:
	$(PYTHON) -m venv .lowest
	.lowest/bin/python -m pip install --quiet uv
	.lowest/bin/uv pip install --python .lowest/bin/python --resolution lowest-direct --editable '.[openvino]'
	cd .lowest && rm -rf walk && bin/compress distill quickstart --out walk
	cd .lowest && bin/compress export walk --precision fp32 --precision int8 --format onnx --format openvino --bundle
	cd .lowest && bin/compress benchmark walk --batch 1 --threads 1 --seconds 0.1
	cd .lowest && bin/compress report walk && bin/compress verify walk/export/bundle && bin/compress recipe schema > schema.json

$(INSTALLED): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is older. Set PYTHON, as in: make PYTHON=python3.12" >&2; exit 4; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --no-compile --editable '.[dev,trt-rtx]'
	@touch $@

clean:
	rm -rf $(VENV) .lowest build *.egg-info
