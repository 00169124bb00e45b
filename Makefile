# One-liners over the `plainmed` command line; the environment is made on first use.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo serve test lint format lock clean

help: ## Show these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

$(BIN)/plainmed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(BIN)/pytest: $(BIN)/plainmed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(BIN)/plainmed ## Make the environment

demo: $(BIN)/plainmed ## Start PlainMed, summarise and score a sample abstract over HTTP, stop
	$(BIN)/plainmed demo

serve: $(BIN)/plainmed ## Start PlainMed and leave it running
	$(BIN)/plainmed serve serve_config.yaml

test: $(BIN)/pytest ## Run every test
	$(BIN)/pytest

lint: $(BIN)/pytest ## Check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(BIN)/pytest ## Format the code
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock: $(BIN)/pytest ## Write constraints.txt from this environment
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean: ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
