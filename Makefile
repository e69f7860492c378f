# All that a contributor must remember: make demo · make test · make check · make bench · make wheel
PYTHON ?= python3
BIN := .venv/bin
LEVEL ?= $(SHARNN_CPU)
STAMP := .venv/.installed

.PHONY: demo test check bench wheel clean

demo: $(STAMP)
	$(BIN)/sharnn demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# LEVEL=portable|avx2|avx512 measures what a processor with less would do, into a file of results of its own.
bench: $(STAMP)
	SHARNN_CPU=$(LEVEL) $(BIN)/python benchmarks/run_all.py

# For this platform, with kernels for every instruction set; tested as where there is no compiler.
wheel: $(STAMP)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	SHARNN_TEST_WHEEL="$$(ls dist/*.whl)" $(BIN)/python -m pytest tests/integration/test_wheel.py

# PyTorch goes first and pinned, so that no other package's looser range picks a different build.
$(STAMP): pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf .venv
