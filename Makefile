# `make` alone lists what there is.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help setup up demo test fuzz bench lint openapi lock

BIN := .venv/bin
# Where `up` and `demo` keep everything; ARGS goes to `headwater up`, see `headwater up --help`.
HOME_DIR ?= var/home
DEMO_DEVICES ?= 21
ARGS ?=

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with exactly what requirements.lock says; quick when nothing has changed
	@scripts/setup.sh

up: setup ## Run everything: MQTT on 1883, API and console on 8080, HTTP ingest on 8081
	@exec $(BIN)/headwater up --home $(HOME_DIR) $(ARGS)

demo: setup ## The same, with a fleet of simulated devices
	@exec $(BIN)/headwater up --home $(HOME_DIR) --demo $(DEMO_DEVICES) $(ARGS)

test: lint ## All tests, after the linters
	@scripts/system-packages.sh chromium mosquitto mosquitto-clients gcc libc6-dev libmosquitto-dev
	@scripts/node-packages.sh
	@scripts/test.sh

fuzz: setup ## A million damaged packets for the MQTT session; FUZZ_SEED=... makes a run again, FUZZ_PACKETS=... its size
	@export FUZZ_PACKETS=$${FUZZ_PACKETS:-1000000} FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)}; echo "FUZZ_SEED=$$FUZZ_SEED"; \
		$(BIN)/pytest -q tests/unit/protocols/test_fuzz.py

bench: setup ## Measure, beside Mosquitto; BENCH_ARGS goes to the benchmark
	@scripts/system-packages.sh mosquitto
	@$(BIN)/python -m headwater.testing.bench $(BENCH_ARGS)

lint: setup ## Formatting, style, types, and that what is generated is up to date
	@$(BIN)/ruff format --check --quiet . || { echo "run $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m headwater.api.openapi --check
	@$(BIN)/python scripts/settings_reference.py --check
	@$(BIN)/python scripts/adr_index.py --check

openapi: setup ## Write openapi/v1.json from the code
	@$(BIN)/python -m headwater.api.openapi --write

lock: setup ## Resolve requirements.lock anew
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --upgrade --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml
	@! grep -nE 'https?:|file:|--|@' requirements.lock
