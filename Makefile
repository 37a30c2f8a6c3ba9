# `make` alone lists the targets. They work as any user and set up what they need.

# The interpreter the environment is made with: make run PYTHON=/path/to/python3.12
PYTHON ?= python3
# Optional parts of the product: make run EXTRAS=postgres
EXTRAS ?=
# Further arguments for the program behind a target: make test ARGS="-k resume"
ARGS ?=
# Processes that run tests beside each other, each with servers of its own: make test JOBS=4
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PINS := setup.cfg pyproject.toml constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Newer than the pins as long as the environment is up to date.
RUN_STAMP := $(VENV)/.run-$(EXTRAS)
TEST_STAMP := $(VENV)/.test
LOCALSTACK_STAMP := .localstack/.made
NODE_STAMP := node_modules/.test

.DEFAULT_GOAL := help
.PHONY: help run dev test lint localstack bench assets clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUN_STAMP) ## Serve on port 3000: environment, secrets, tables and all
	@sh deploy/assets --try
	@$(BIN)/python deploy/serve $(ARGS)

dev: $(RUN_STAMP) ## Serve, and start again whenever a file changes
	@sh deploy/assets --try
	@$(BIN)/python deploy/serve --reload $(ARGS)

test: $(TEST_STAMP) $(NODE_STAMP) ## Run all tests
	@sh deploy/assets --try
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder $(ARGS)

lint: $(TEST_STAMP) ## Check style, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy --strict app

localstack: $(LOCALSTACK_STAMP) ## Install LocalStack, an S3 server that tests want

bench: $(TEST_STAMP) ## Measure Longhaul and its peers on this machine
	@$(BIN)/python -m bench $(ARGS)

assets: ## Fetch the JavaScript that the upload page needs, with npm
	@sh deploy/assets

clean: ## Remove the environment and caches; uploads, ledger and .env stay
	rm -rf $(VENV) .localstack node_modules bench/node/node_modules bench/go resumable_static/vendor \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis build longhaul.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_STAMP): $(PINS)
	@sh deploy/environment "$(PYTHON)" $(VENV)
	@echo "Installing into $(VENV) ..."
	@$(INSTALL) --editable .$(if $(EXTRAS),'[$(EXTRAS)]')
	@touch $@

$(TEST_STAMP): $(PINS)
	@sh deploy/environment "$(PYTHON)" $(VENV)
	@echo "Installing into $(VENV), with what tests need ..."
	@$(INSTALL) --editable '.[test,postgres,smb,s3]'
	@touch $(VENV)/.run- $@

# Only tests need it, and only those with browsers and clients in JavaScript.
$(NODE_STAMP): package.json package-lock.json
	@if command -v npm >/dev/null; then \
		echo "Installing into node_modules ..."; \
		npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && touch $@; \
	else \
		echo "npm is not installed: tests with browsers and JavaScript clients are left out"; \
	fi

# It wants older libraries than ours, so it has an environment of its own.
$(LOCALSTACK_STAMP): tests/harness/localstack.txt
	@sh deploy/environment "$(PYTHON)" .localstack
	@echo "Installing into .localstack ..."
	@.localstack/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
