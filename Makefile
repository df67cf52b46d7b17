# Every target does all its own set-up; it needs Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv-peers/.installed

.PHONY: help install demo test test-all test-containers test-readers images certificates lock lint \
	faults security bench bench-peers bench-growth bench-scaling clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 24

install: $(STAMP) ## set everything up in .venv

$(STAMP): pyproject.toml requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pressroom needs Python 3.11 or newer; set PYTHON=…")'
	@test -x $(BIN)/python || { echo "Setting up .venv (once)…"; $(PYTHON) -m venv .venv; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24.1'
	@echo "Installing Pressroom and what it needs (once, about a minute)…"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(STAMP)

demo: $(STAMP) ## documents in, articles out, on a real Kafka and a real model
	@$(BIN)/pressroom demo

test: $(STAMP) ## the tests, on an embedded Kafka; of many that are alike a selection
	$(BIN)/pytest

test-all: $(PEERS) ## every test that needs no Docker, the long ones too
	$(BIN)/pytest -m 'not containers'

test-containers: $(STAMP) ## the tests that use Kafka on a Kafka container, and docker-compose.yml
	@$(BIN)/python -m tests.containers $(if $(IF_POSSIBLE),--if-possible)

images: $(STAMP) ## pull or build what docker-compose.yml runs; .env says which
	@$(BIN)/python -m tests.containers.images

certificates: ## make the certificates and passwords that docker-compose.tls.yml mounts
	@bash tls/certificates.sh

faults: $(STAMP) ## all fault tests, the long ones too, and a table of what they found
	$(BIN)/pytest tests/faults -m 'long or not long' --numprocesses=2 --fault-table=build/faults.md

security: $(STAMP) ## all tests of TLS, rights, secrets and encryption, the long ones too
	$(BIN)/pytest tests/security -m 'long or not long'

LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate \
	  --upgrade --custom-compile-command 'make lock'

lock: $(STAMP) ## pin what pyproject.toml asks for, for the image and for .venv, and what is compared
	@$(LOCK) --output-file requirements.lock pyproject.toml
	@$(LOCK) --extra dev --constraints requirements.lock --output-file requirements-dev.lock pyproject.toml
	@$(LOCK) --output-file benchmarks/peers/requirements.lock benchmarks/peers/requirements.in

lint: $(STAMP) ## ruff, mypy and the layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## throughput, latency and slow calls beside a hand-written loop
	@$(BIN)/python -m benchmarks

$(PEERS): benchmarks/peers/requirements.lock benchmarks/jars.py $(STAMP)
	@test -x .venv-peers/bin/python || { echo "Setting up .venv-peers (once)…"; $(PYTHON) -m venv .venv-peers; }
	@echo "Installing what Pressroom is compared with (once, about a minute)…"
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/peers/requirements.lock
	@$(BIN)/python -m benchmarks.jars
	@touch $(PEERS)

test-readers: $(PEERS) ## programs written with other stream processors, and Java, read Pressroom's topics
	$(BIN)/pytest tests/integration/test_readers.py -m long

bench-peers: $(PEERS) ## beside other stream processors; about 25 minutes
	@$(BIN)/python -m benchmarks.against_peers --into docs/benchmarks.md

bench-growth: $(STAMP) ## memory and cost per record as things grow; about 3 minutes
	@$(BIN)/python -m benchmarks.growth --into docs/benchmarks.md

bench-scaling: $(STAMP) ## more workers, more partitions, a kill; about 15 minutes
	@$(BIN)/python -m benchmarks.scaling --into docs/benchmarks.md

clean: ## remove what the other targets made here
	rm -rf .venv .venv-peers build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
