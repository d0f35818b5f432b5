# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.
#
# All of it is installed into .venv and a cache folder outside the checkout ($TIDEGATE_CACHE, else
# ~/.cache/tidegate); nothing needs root. The first run builds a Kubernetes control plane and
# Prometheus from source, which takes about ten minutes; later runs find them there.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
CLUSTER ?= embedded
KEEP ?=
NAME ?=
PYTEST := $(PY) -m pytest
# Processes that run whole test files side by side, each with servers and addresses of its own.
# Tests on real parts wait half of their time, so that three of them suit two cores.
ABREAST := --dist loadfile -n
ON_REAL_PARTS := $(ABREAST) 3 --no-loadscope-reorder
SOURCES := contract operator batcher_sidecar cli tools demo tests examples bench hatch_build.py

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-stop test lint unit integration e2e compiled test-compiled bench fuzz format lock clean

help: ## Show what there is
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## Install and build everything that demo and tests need (10 minutes once)
	@$(PY) -m tidegate_tools setup

# A cluster at hand needs no control plane of ours.
current := $(if $(filter current,$(CLUSTER)),kubectl prometheus helm triton)

demo: $(VENV)/ready ## Tell the story on real parts: promote, roll back, refuse (CLUSTER=current, KEEP=1)
	@$(PY) -m tidegate_tools setup $(current)
	@$(PY) -m tidegate_demo --cluster $(CLUSTER) $(if $(KEEP),--keep)

demo-stop: $(VENV)/ready ## Stop what `make demo KEEP=1` left running
	@$(PY) -m tidegate_demo --stop

test: lint unit setup ## Everything that must pass before a change lands
	$(PYTEST) tests/e2e tests/integration $(ON_REAL_PARTS)

lint: $(VENV)/ready ## ruff, mypy strict, import-linter
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/mypy contract/tidegate_contract operator/tidegate_operator batcher_sidecar/tidegate_batcher batcher_sidecar/tidegate_sidecar cli/tidegate_cli cli/tidegate_load cli/tidegate_top cli/tidegate_tune tools/tidegate_tools demo/tidegate_demo hatch_build.py
	$(VENV)/bin/lint-imports --no-logo

unit: $(VENV)/ready ## Tests of the pure rooms and of small shells: no API server, no Triton
	$(PYTEST) tests/unit $(ABREAST) 2

integration: setup ## Tests on a real API server, Prometheus and Triton
	$(PYTEST) tests/integration $(ON_REAL_PARTS)

e2e: setup ## The demo's stories, told to the end, also with parts killed
	$(PYTEST) tests/e2e $(ON_REAL_PARTS)

compiled: $(VENV)/ready ## Compile the sidecar's hot path into build/compiled (2 minutes; needs a C compiler)
	@$(PY) hatch_build.py

test-compiled: compiled ## The tests of sidecar and batcher, against the compiled code
	PYTHONPATH=$(CURDIR)/build/compiled $(PY) -c "from tidegate_sidecar.__main__ import COMPILED; assert COMPILED"
	PYTHONPATH=$(CURDIR)/build/compiled $(PYTEST) tests/unit/batcher tests/unit/sidecar tests/unit/sidecar_control $(ABREAST) 2

bench: setup ## Print the figures, each with its raw samples in bench-results/ (NAME=... for one)
	@$(PY) hatch_build.py || echo "No compiled sidecar, which the image has: it is measured as it is."
	@$(PY) tests/bench/run.py $(NAME)

fuzz: $(VENV)/ready ## Throw mutated requests at the sidecar for ten minutes (needs pip install atheris)
	@$(PY) tests/fuzz/http_requests.py -max_total_time=600

format: $(VENV)/ready ## Format, and fix what ruff can
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

lock: $(VENV)/ready ## Write locks/*.txt anew from pyproject.toml (needs uv on the PATH)
	for extra in dev operator sidecar compile; do \
	    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	        --no-header --no-emit-index-url --extra $$extra pyproject.toml -o locks/$$extra.txt; \
	done

clean: ## Remove .venv and what was made in the checkout; the cache folder stays
	rm -rf $(VENV) .run build bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The stamp comes last, so that an interrupted installation is begun anew.
$(VENV)/ready: locks/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or later is needed, and $(PYTHON) is older: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing Python packages into $(VENV) (about a minute)"
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "python3 -m venv does not work; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
