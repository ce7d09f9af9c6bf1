# SPDX-License-Identifier: Apache-2.0
# Development tasks. They need Linux, make and Python >= 3.11. Everything else is installed into .venv.

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
# AIRFLOW=next: the newest pre-release of Airflow, in an environment of its own.
VENV := .venv$(if $(AIRFLOW),-$(AIRFLOW))
REQUIREMENTS := requirements/$(or $(AIRFLOW),dev).txt
BIN := $(VENV)/bin
DEV := $(BIN)/python -m
READY := $(VENV)/.ready

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-zA-Z0-9_.-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) ## Run the example Dags on a temporary Airflow (KEEP=1 leaves it running)
	@$(DEV) dev.demo $(if $(filter-out 0,$(KEEP)),--keep)

# Tests often wait: three processes keep two cores busy.
WORKERS ?= $(if $(ARGS),0,3)
PYTEST = $(DEV) pytest --numprocesses $(WORKERS) --no-loadscope-reorder

.PHONY: test
test: $(READY) ## Run all tests in WORKERS=3 processes, or those of ARGS="-k name" in one (AIRFLOW=next: on the next Airflow)
	@$(PYTEST) $(ARGS)

# What a change must also pass with the newest pre-release of Airflow. Left out: tests of code that Airflow does not affect.
NEXT_TESTS := tests/unit tests/integration $(addprefix tests/system/test_,examples.py loops.py loop_pods.py) \
  $(addprefix --ignore-glob=tests/,unit/test_wrap* unit/test_job_* unit/test_shell_client.py unit/test_old_pythons.py \
  unit/test_zipapp.py unit/test_guard.py unit/test_docs.py integration/test_kube_runner.py)
.PHONY: test-next
test-next: ## Run unit and integration tests, and a deployment with Dags, on the newest pre-release of Airflow
	@$(MAKE) test AIRFLOW=next WORKERS=$(WORKERS) ARGS="$(NEXT_TESTS) $(ARGS)"

.PHONY: nightly
nightly: $(READY) ## Run all tests with more generated inputs and larger tables
	@ASYNCACTION_TEST_NIGHTLY=1 $(PYTEST) $(ARGS)

.PHONY: soak
soak: $(READY) ## Run the tests for race conditions 20 times, then 20 times under CPU load
	@$(DEV) dev.soak $(ARGS)

.PHONY: soak-demo
soak-demo: $(READY) ## Run the demo 20 times, and print the duration of each run
	@$(DEV) dev.soak --demo $(ARGS)

.PHONY: bench
bench: $(READY) ## Measure reports per second, waiting tasks, and a task's overhead compared with Airflow's own
	@$(DEV) benchmarks $(ARGS)

.PHONY: bench-files
bench-files: $(READY) ## Measure file transfers through the API server, compared with nginx, and to S3
	@$(DEV) benchmarks.files

.PHONY: bench-hostile
bench-hostile: $(READY) ## Measure Airflow's own UI under attacks by jobs, users and strangers (ARGS selects some)
	@$(DEV) benchmarks.hostile $(if $(ARGS),"$(ARGS)")

.PHONY: bench-kube
bench-kube: $(READY) ## Compare with KubernetesPodOperator on the cluster of ASYNCACTION_TEST_KUBECONFIG
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
venv: $(READY) ## Create .venv with hash-checked requirements and this project in editable mode

COMPILE = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --custom-compile-command "make requirements"

.PHONY: requirements
requirements: | $(UV) ## Update the hash-checked requirements
	@$(COMPILE) pyproject.toml --group dev --output-file requirements/dev.txt
	@cp requirements/dev.txt requirements/next.txt
	@$(filter-out --upgrade,$(COMPILE)) pyproject.toml --group dev --group next --output-file requirements/next.txt
	@$(COMPILE) --group uv --output-file requirements/uv.txt

.PHONY: clean
clean: ## Remove .venv and all generated files
	rm -rf .venv .venv-next .demo build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): $(REQUIREMENTS) pyproject.toml | $(UV)
	@[ -n "$(PYTHON)" ] || { echo "make: no Python >= 3.11 found: install one, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version). This takes a minute, once"
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --clear --python "$$(command -v $(PYTHON))" $(VENV)
	@$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes $(REQUIREMENTS)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

build/uv/bin/uv:
	@[ -n "$(PYTHON)" ] || { echo "make: no Python >= 3.11 found: install one, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot create virtual environments: install its venv module (Debian: apt install python3-venv), or uv" >&2; exit 1; }
	@rm -rf build/uv
	@$(PYTHON) -m venv build/uv
	@build/uv/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes --requirement requirements/uv.txt
