# CAST: `make demo` is the whole method on two CPU cores; `make help` lists the rest.
# Every target sets up its environment by itself, once, from envs/requirements.lock.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo smoke test lint schema environment bench-contrastive bench-efficiency bench-memory

VENV ?= .venv
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# Further arguments of snakemake or pytest: make demo ARGS="--config seeds=[0,1,2]"
ARGS ?=

BIN := $(abspath $(VENV))/bin
# The environment is complete when this file exists; another lock or pyproject.toml asks for another file.
STAMP := $(VENV)/.complete-$(shell cat envs/requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)

export PATH := $(BIN):$(PATH)
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --root-user-action ignore --no-deps

# One thread per job: the jobs run side by side. A rule's own `threads` goes to `cast --threads`.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PYTHONUNBUFFERED := 1

# The longest chain of jobs leads to the last row of the table: the teacher's part goes first, the student's has its
# priority in the rules, and the controls fill the gaps.
TEACHER_CHAIN = seed0/pseudo_label/teacher_cast

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  variables               VENV=$(VENV) PYTHON=$(PYTHON) CORES=$(CORES) ARGS="arguments of snakemake or pytest"'

demo: $(STAMP) ## train, adapt, distil, refine and compare on drawn street scenes (20 minutes on two cores)
	@SECONDS=0; \
	snakemake --cores $(CORES) --quiet host reason rules --prioritize results/demo/$(TEACHER_CHAIN) $(ARGS) && \
	printf '\n%s\n\n' "$$(cat results/demo/tables/summary.md)" && \
	echo "table    results/demo/tables/summary.csv (also .md, .tex)" && \
	echo "figure   results/demo/figures/overlays.png" && \
	echo "time     $$((SECONDS / 60)) min $$((SECONDS % 60)) s"

smoke: $(STAMP) ## every rule of the demo with next to no data and training
	@snakemake --cores $(CORES) --quiet host reason rules --configfile config/smoke.yaml --forceall \
	  --prioritize results/smoke/$(TEACHER_CHAIN) $(ARGS)

test: $(STAMP) ## the tests
	@pytest --numprocesses $(CORES) --dist loadfile $(ARGS)

lint: $(STAMP) ## style, types and workflow
	@ruff check .
	@ruff format --check --quiet .
	@snakefmt --check --compact-diff Snakefile workflow
	@mypy
	@snakemake --lint

bench-contrastive: $(STAMP) ## time and memory of the contrastive loss, into docs/measurements.md (8 minutes)
	@python -m cast.benchmarks.contrastive $(ARGS)

bench-efficiency: $(STAMP) ## parameters, FLOPs and latency of the full-size models, into docs/measurements.md (15 minutes, 17 GB)
	@python -m cast.benchmarks.efficiency --threads $(CORES) $(ARGS)

bench-memory: $(STAMP) ## memory of a training step at full size, into docs/reproduce.md (5 minutes, 12 GB)
	@python -m cast.benchmarks.memory

schema: $(STAMP) ## write workflow/schemas/config.schema.json anew from cast/config.py
	@python -m cast.schema > workflow/schemas/config.schema.json

environment: $(STAMP) ## the environment alone

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), but Python 3.11 or newer is needed: PYTHON=…" >&2; exit 1; }
	@echo "Setting up $(VENV), once: about 160 packages, 6 GB, a few minutes" >&2
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(PIP) --requirement envs/requirements.lock
	@$(PIP) --no-build-isolation --editable .
	@rm -f $(VENV)/.complete-*; touch $@
