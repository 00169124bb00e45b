# One-liners over the `plainmed` command line; the environment is made on first use.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install dev demo serve test test-slow chaos overload soak fuzz lint format lock security sbom bench release release-notes clean

help: ## Show these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

$(BIN)/plainmed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(BIN)/pytest: $(BIN)/plainmed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(BIN)/plainmed ## Make the environment

dev: $(BIN)/pytest ## Make the environment with what the tests need

demo: $(BIN)/plainmed ## Start PlainMed, summarise and score a sample abstract over HTTP, stop
	$(BIN)/plainmed demo

serve: $(BIN)/plainmed ## Start PlainMed and leave it running
	$(BIN)/plainmed serve serve_config.yaml

# Two processes; tests of one file stay together (tests/conftest.py), the slowest group starts first.
PYTEST_OPTIONS ?= -n 2 --dist loadscope --no-loadscope-reorder

test: $(BIN)/pytest ## Run every test
	$(BIN)/pytest $(PYTEST_OPTIONS)

test-slow: $(BIN)/pytest ## Also the tests that take long
	PLAINMED_SLOW_TESTS=1 $(BIN)/pytest $(PYTEST_OPTIONS)

chaos: $(BIN)/pytest ## Strike a loaded cluster of three nodes with every fault; some twenty-five minutes
	$(BIN)/python -m tests.chaos
	$(BIN)/python -m tests.chaos.shutdown

overload: $(BIN)/pytest ## Ten times the load, unequal clients, clients that leave, deadlines; a quarter of an hour
	$(BIN)/python -m benchmarks.overload

fuzz: $(BIN)/pytest ## Bad requests, texts that break programs, hostile files; some ten minutes
	$(BIN)/python -m tests.fuzz

soak: $(BIN)/pytest ## Mixed load for half an hour: does anything grow?
	$(BIN)/python -m benchmarks.soak

lint: $(BIN)/pytest ## Check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(BIN)/pytest ## Format the code
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

security: $(BIN)/pytest ## Look for dangerous code and for secrets
	$(BIN)/python scripts/security.py

sbom: $(BIN)/pytest ## Write what the images hold, as CycloneDX, into build/
	$(BIN)/python scripts/sbom.py requirements.lock
	$(BIN)/python scripts/sbom.py requirements-cuda.lock
	$(BIN)/python scripts/sbom.py requirements-vllm.lock

lock: $(BIN)/pytest ## Write constraints.txt from this environment, and the locks with hashes
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
	$(BIN)/python scripts/lock.py

bench: $(BIN)/pytest ## Measure speed beside the peers, print the tables
	$(BIN)/python -m benchmarks

PART ?= minor
release: $(BIN)/pytest ## Write the next version everywhere, commit it and tag it: PART=major, minor or patch
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/uv tool run --from bump-my-version==1.8.1 bump-my-version bump $(PART)

release-notes: ## Print what CHANGELOG.md says about VERSION=X.Y.Z
	@awk -v wanted="$(VERSION)" '/^## /{ inside = ($$2 == wanted || $$2 == wanted ",") } inside && !/^## /' CHANGELOG.md

clean: ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

# --- deployment (docs/operations.md): `plainmed ops`, under the earlier system's target names ---------
# MODEL_NAME=... MODEL_S3_BUCKET=... PLAINMED_ENV=prod on the command line or in the environment;
# OPS='--dry-run' (or any other option) is passed on.
OPS ?=
PLAINMED_OPS := $(BIN)/plainmed ops

.PHONY: ops startall stopall restoreall destroyall alb-dns show_endpoints test-deploy
.PHONY: deploy-metricas redeploy-metricas stop-metricas restore-metricas destroy-metricas metricas-status
.PHONY: deploy-generador redeploy-generador stop-generador restore-generador destroy-generador
.PHONY: generador-status generador-plan generador-apply generador-max-specs generador-normal-specs

$(VENV)/.ops: $(BIN)/plainmed pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[ops]'
	@touch $@

ops: $(VENV)/.ops ## Make the environment of the deployment commands

# Each target below makes it on first use.
startall stopall restoreall destroyall alb-dns show_endpoints: $(VENV)/.ops
deploy-metricas redeploy-metricas stop-metricas restore-metricas destroy-metricas metricas-status: $(VENV)/.ops
deploy-generador redeploy-generador stop-generador restore-generador destroy-generador: $(VENV)/.ops
generador-status generador-plan generador-apply generador-max-specs generador-normal-specs: $(VENV)/.ops

startall: ; $(PLAINMED_OPS) deploy all $(OPS)
stopall: ; $(PLAINMED_OPS) stop all $(OPS)
restoreall: ; $(PLAINMED_OPS) restore all $(OPS)
destroyall: ; $(PLAINMED_OPS) destroy all $(OPS)
alb-dns show_endpoints: ; $(PLAINMED_OPS) endpoints all $(OPS)

deploy-metricas: ; $(PLAINMED_OPS) deploy metrics $(OPS)
redeploy-metricas: ; $(PLAINMED_OPS) redeploy metrics $(OPS)
stop-metricas: ; $(PLAINMED_OPS) stop metrics $(OPS)
restore-metricas: ; $(PLAINMED_OPS) restore metrics $(OPS)
destroy-metricas: ; $(PLAINMED_OPS) destroy metrics $(OPS)
metricas-status: ; $(PLAINMED_OPS) status metrics $(OPS)

deploy-generador: ; $(PLAINMED_OPS) deploy generator $(OPS)
redeploy-generador: ; $(PLAINMED_OPS) redeploy generator $(OPS)
stop-generador: ; $(PLAINMED_OPS) stop generator $(OPS)
restore-generador: ; $(PLAINMED_OPS) restore generator $(OPS)
destroy-generador: ; $(PLAINMED_OPS) destroy generator $(OPS)
generador-status: ; $(PLAINMED_OPS) status generator $(OPS)
generador-plan: ; $(PLAINMED_OPS) plan generator $(OPS)
generador-apply: ; $(PLAINMED_OPS) apply generator $(OPS)
generador-max-specs: ; $(PLAINMED_OPS) max-specs $(OPS)
generador-normal-specs: ; $(PLAINMED_OPS) normal-specs $(OPS)

test-deploy: $(BIN)/pytest ## Also the long deployment tests: moto, checkov
	PLAINMED_TEST_DEPLOY=1 $(BIN)/pytest tests/deploy/test_terraform.py tests/ops
