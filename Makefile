# SPDX-License-Identifier: Apache-2.0
# All developer commands. They need Linux, make and Python >= 3.11, and install everything else into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

export UV_PYTHON_DOWNLOADS := never
export VIRTUAL_ENV :=
export PYTHONPATH :=
# Airflow starts many processes: without bytecode files, each would compile for seconds.
export PYTHONDONTWRITEBYTECODE :=

CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(CANDIDATES); do "$$p" -c '$(RECENT)' 2>/dev/null && echo "$$p" && break; done)
UV ?= $(or $(shell command -v uv),build/uv/bin/uv)
BIN := .venv/bin
DEV := $(BIN)/python -m
READY := .venv/.ready

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-zA-Z0-9_.-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) ## Run the example Dags on a private Airflow (KEEP=1 leaves it running)
	@$(DEV) dev.demo $(if $(filter-out 0,$(KEEP)),--keep)

# Tests often wait: three processes keep two cores busy.
WORKERS ?= $(if $(ARGS),0,3)
PYTEST = $(DEV) pytest --numprocesses $(WORKERS) --no-loadscope-reorder

.PHONY: test
test: $(READY) ## Run all tests in WORKERS=3 processes (ARGS="-k name": some, in one process)
	@$(PYTEST) $(ARGS)

.PHONY: nightly
nightly: $(READY) ## Run all tests with more generated inputs and larger tables
	@ASYNCACTION_TEST_NIGHTLY=1 $(PYTEST) $(ARGS)

.PHONY: soak
soak: $(READY) ## Run the race tests 20 times on an idle machine, then 20 times under load
	@$(DEV) dev.soak $(ARGS)

.PHONY: soak-demo
soak-demo: $(READY) ## Run the demo 20 times and print how long each run took
	@$(DEV) dev.soak --demo $(ARGS)

.PHONY: bench
bench: $(READY) ## Measure reports per second and the overhead of a task, compared with Airflow
	@$(DEV) benchmarks $(ARGS)

.PHONY: bench-files
bench-files: $(READY) ## Measure file transfers compared with nginx, beside reports, and with S3
	@$(DEV) benchmarks.files

.PHONY: bench-hostile
bench-hostile: $(READY) ## Measure Airflow's UI under hostile load (ARGS="words" selects attacks)
	@$(DEV) benchmarks.hostile $(if $(ARGS),"$(ARGS)")

.PHONY: bench-kube
bench-kube: $(READY) ## Measure pods compared with KubernetesPodOperator (ASYNCACTION_TEST_KUBECONFIG)
	@$(DEV) benchmarks.kube $(ARGS)

.PHONY: check
check: $(READY) ## Check format, lint, types and import contracts
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: format
format: $(READY) ## Format the code
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

.PHONY: dist
dist: dist/asyncaction.pyz $(READY) ## Build the wheel and the job client as one file
	@$(UV) build --quiet --wheel --out-dir dist --no-build-isolation --python $(BIN)/python .
	@ls -l dist

.PHONY: docs
docs: $(READY) ## Build the documentation into build/site
	@NO_MKDOCS_2_WARNING=1 $(DEV) mkdocs build --strict --quiet

.PHONY: asyncaction.pyz
asyncaction.pyz: dist/asyncaction.pyz ## Build the job client as one file

# The same files as in dev/zipapp.py.
PACKED := __init__.py exceptions.py protocol/*.py job/*.py
dist/asyncaction.pyz: $(READY) dev/zipapp.py $(wildcard $(addprefix airflow_asyncaction/,$(PACKED)))
	@mkdir -p dist
	@$(DEV) dev.zipapp $@

.PHONY: venv
venv: $(READY) ## Create .venv with the hashed requirements and this project, editable

COMPILE = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --custom-compile-command "make requirements"

.PHONY: requirements
requirements: | $(UV) ## Recompile the hashed requirements
	@$(COMPILE) pyproject.toml --group dev --output-file requirements/dev.txt
	@$(COMPILE) --group uv --output-file requirements/uv.txt

.PHONY: clean
clean: ## Remove everything that these commands created
	rm -rf .venv .demo build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements/dev.txt pyproject.toml | $(UV)
	@[ -n "$(PYTHON)" ] || { echo "make: no Python >= 3.11 found: install one, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Creating .venv with $$($(PYTHON) --version), once: takes about a minute"
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --clear --python "$$(command -v $(PYTHON))" .venv
	@$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

build/uv/bin/uv:
	@[ -n "$(PYTHON)" ] || { echo "make: no Python >= 3.11 found: install one, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot create virtual environments: install its venv module (Debian: apt install python3-venv), or uv" >&2; exit 1; }
	@rm -rf build/uv
	@$(PYTHON) -m venv build/uv
	@build/uv/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes --requirement requirements/uv.txt
