# Needs make and a Python >= 3.11 with pip; everything else goes into .venv.
# Examples: make test ARGS="tests/inference/exact -x"    make venv PYTHON=python3.12

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

BIN := .venv/bin
RUN := .venv/.installed
TOOLS := .venv/.installed-tools
PEERS := .venv/.installed-bench
SITE := .venv/.installed-docs
NEWEST := .venv-newest/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo bench test newest fuzz check docs format build clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 12

venv: $(TOOLS) ## create .venv with this checkout and all that its tests and checks need

# Each step is up to date until the declared or the pinned dependencies change. What running needs
# comes first; torch comes before it and alone: it is the one large download, and is kept when a
# later step fails.
$(RUN): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "beliefzoo needs Python >= 3.11; choose one with make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $@

$(TOOLS): $(RUN)
	$(BIN)/python -m pip install -c constraints.txt -e '.[test,check]'
	@touch $@

demo: $(RUN) ## fit a hidden Markov model with an LSTM guide to English letters
	$(BIN)/beliefzoo run english-letters --out runs/english-letters --force $(ARGS)

bench: $(PEERS) ## time exact inference beside the peers of the extra "bench"
	$(BIN)/beliefzoo bench hmm --out runs/bench-hmm --force $(ARGS)

$(PEERS): $(RUN) constraints-bench.txt
	$(BIN)/python -m pip install -c constraints.txt -c constraints-bench.txt -e '.[bench]'
	@touch $@

# One thread a worker: the tests' tensors are small, and threads of two workers would compete.
test: export OMP_NUM_THREADS = 1
test: export MPLBACKEND = Agg
test: $(TOOLS) ## run the tests (ARGS are passed to pytest)
	$(BIN)/python -m pytest -n $(WORKERS) $(or $(ARGS),--doctest-modules --pyargs tests beliefzoo)

# What meets other packages most: the export, the diagnostics, three experiments that use both.
newest: export OMP_NUM_THREADS = 1
newest: export MPLBACKEND = Agg
newest: $(NEWEST) ## the tests of export and diagnostics with the newest of everything
	.venv-newest/bin/python -m pytest -n $(WORKERS) --doctest-modules --pyargs $(or $(ARGS),\
		tests/inference/export tests/inference/checking tests/inference/test_arviz_groups.py \
		beliefzoo.inference.arviz_groups beliefzoo.inference.export beliefzoo.inference.checking)
	for name in earthquakes nile english-letters; do \
		.venv-newest/bin/beliefzoo run $$name --smoke --out runs/newest/$$name --force || exit 1; \
	done

$(NEWEST): pyproject.toml
	@test -x .venv-newest/bin/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' \
		|| { echo "ArviZ 1.x needs Python >= 3.12; choose one with make newest PYTHON=python3.13" >&2; exit 1; }
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --upgrade --upgrade-strategy eager -e '.[test]'
	@touch $@

# Every test named fuzz, with so many times its usual cases, and the wrong arguments of all calls.
FUZZ ?= 50
fuzz: export OMP_NUM_THREADS = 1
fuzz: export MPLBACKEND = Agg
fuzz: export BELIEFZOO_FUZZ = $(FUZZ)
fuzz: $(TOOLS) ## hostile input, damages, kills, oracles: 150 000 cases in ten minutes (FUZZ multiplies)
	$(BIN)/python -m pytest -n $(WORKERS) -k "fuzz or test_boundary" $(ARGS)

check: $(TOOLS) ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(SITE) ## build the site into docs/_build/html, with every example run
	$(BIN)/python -m sphinx -W -n --keep-going -b html docs docs/_build/html $(ARGS)

$(SITE): $(RUN)
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	@touch $@

format: $(TOOLS) ## apply the formatter and the safe lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(TOOLS) ## build sdist and wheel into dist
	$(BIN)/python -m build --no-isolation

clean: ## remove build products and caches (.venv and runs stay)
	rm -rf build dist docs/_build *.egg-info src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find models inference experiments tests src -name __pycache__ -type d -prune -exec rm -rf {} +
