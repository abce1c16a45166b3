# The two commands that matter: `make bench` and `make test`. Both set up what they need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

.PHONY: bench bench-extrapolate bench-gate bench-mlflow bench-self bench-ui docs gpu-check gpu-check-plan kernel-resources screenshots test setup lint clean

# The virtual environment is made anew only when the pins or the dependencies change.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("chipscale needs Python 3.11 or newer; this is %s. Set PYTHON=..." % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV) (once; several minutes where packages must be downloaded) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

setup: $(STAMP)

bench: $(STAMP)
	@$(BIN)/chipscale run suite=quick $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# One process runs all tests of a file, since they share fixtures that take seconds.
test: lint
	@$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile $(ARGS)

# What the harness itself costs, and whether two runs of it agree: some three minutes. `make test`
# only checks that these run.
bench-self: $(STAMP)
	@$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-columns=median,iqr,rounds
	@$(BIN)/python -m tests.benchmarks.self_check $(ARGS)

# How fast the best plan of 100,000 chips is found, on one core; some seconds.
bench-extrapolate: $(STAMP)
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \
	  $(BIN)/python -m tests.benchmarks.extrapolate $(ARGS)

# How often the regression gate is wrong, in simulation and measured here, beside rules of other tools:
# an hour or two on a quiet machine. Goes on where it was stopped; ARGS='--suites 4' is a first look.
bench-gate: $(STAMP)
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \
	  $(BIN)/python -m tests.benchmarks.gate $(ARGS)

# How fast runs get into MLflow, and whether all do when its server is killed: some minutes.
bench-mlflow: $(STAMP)
	@$(BIN)/python -m tests.benchmarks.mlflow $(ARGS)

# How long MLflow's UI takes to open an experiment of 2,000 runs and a run of 10,000 cases; minutes.
# It and the pictures of the README need Debian's Chromium.
bench-ui: $(STAMP)
	@$(BIN)/python -m tests.benchmarks.ui $(ARGS)

screenshots: $(STAMP)
	@$(BIN)/python -m tests.browser.screenshots $(ARGS)

# What only a GPU can show, in under 9 minutes: every op right, the chip's best rates, every op timed
# against its alternatives, whole layers against the sum of their ops, and kernels tuned. Needs python,
# torch and triton alone once the plans are there; goes on where it was stopped.
#     make gpu-check OUT=results/gpu-check          with GPU_PYTHON=python3 on a bare host
OUT ?= results/gpu-check
PLANS := build/gpu-check
GPU_PYTHON ?= $(BIN)/python
COMPILERS ?= $(shell nproc)
SECONDS_EACH ?= 105

gpu-check-plan: $(STAMP)
	@mkdir -p $(PLANS)
	@$(BIN)/chipscale run suite=correctness measure=check device=cuda plan=$(PLANS)/1-correctness.json
	@$(BIN)/chipscale run suite=roofs device=cuda plan=$(PLANS)/2-roofs.json
	@$(BIN)/chipscale run suite=kernels device=cuda plan=$(PLANS)/3-kernels.json
	@$(BIN)/chipscale run suite=closure_gpu 'impls=[torch,triton]' device=cuda \
	  plan=$(PLANS)/4-closure.json
	@$(BIN)/chipscale tune op=all suite=kernels device=cuda plan=$(PLANS)/5-tuning.json

gpu-check:
	@test -e $(PLANS)/5-tuning.json || $(MAKE) gpu-check-plan
	@failed=0; for plan in $(PLANS)/*.json; do \
	  echo "== $$plan"; \
	  $(GPU_PYTHON) -m harness.worker $$plan $(OUT)/$$(basename $$plan .json) \
	    --compile-first $(COMPILERS) --within $(SECONDS_EACH) || failed=$$?; \
	done; exit $$failed

# Registers, spills and shared memory of every kernel on every target, compiled without a GPU.
kernel-resources: $(STAMP)
	@$(BIN)/python -m kernels.resources results/kernel-resources.csv $(ARGS)

# What is generated from the op files, the results that are kept, the published runs and the
# calibration; after `chipscale validate calibrate=configs/calibration` this is what brings the
# stated errors and docs/validation.md up to date.
docs: $(STAMP)
	@$(BIN)/python -m harness.report.ops_page docs/ops.md
	@mkdir -p build
	@$(BIN)/chipscale validate format=csv > build/reached.csv
	@mv build/reached.csv configs/validation/reached.csv
	@$(BIN)/chipscale validate format=page > build/validation.md
	@mv build/validation.md docs/validation.md

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
