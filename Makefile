# Two commands do everything on a fresh machine: `make demo` and `make test`. Both bring what they need.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv || echo .tools/bin/uv)
LAB ?= demo

.PHONY: help demo demo-down test check unit e2e bench crds image lock system go clean

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

demo: $(VENV)/ready system   ## a datacenter on this machine: three hosts, two VMs, three outages that no guest notices, a move
	$(BIN)/python -m lq_operator.lab.demo up --name $(LAB)

demo-down: $(VENV)/ready     ## take the demo down and prove that nothing is left
	$(BIN)/python -m lq_operator.lab.demo down --name $(LAB)

test: $(VENV)/ready system   ## every tier of tests, and how long each took
	hack/system-packages.sh build
	$(BIN)/python hack/tiers.py

check: $(VENV)/ready         ## format, lint, types, import contracts, dependencies, generated files: under a minute
	$(BIN)/ruff format --check -q src tests hack
	$(BIN)/ruff check -q src tests hack
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache | tail -n 12
	$(BIN)/deptry src
	$(BIN)/lq-operator crds --check crds --docs docs/reference/api
	$(BIN)/lq-operator explain fields --check .

unit: $(VENV)/ready          ## the quick tiers only
	$(BIN)/python hack/tiers.py unit model sim

e2e: $(VENV)/ready system    ## the end-to-end tiers only
	$(BIN)/python hack/tiers.py e2e-lab e2e-api e2e-chart e2e-rest

bench: $(VENV)/ready system  ## measurements, as JSON and as tables
	$(BIN)/python -m tests.bench

crds: $(VENV)/ready          ## generate crds/, the chart's copy and the reference pages from the models
	$(BIN)/lq-operator crds --write crds --docs docs/reference/api
	$(BIN)/lq-operator crds --write charts/lq-operator/files/crds
	$(BIN)/lq-operator explain fields --write .

image: $(VENV)/ready         ## build the container image with buildah
	hack/system-packages.sh build
	hack/build-image.sh

lock: $(VENV)/ready          ## pin every dependency with its hashes
	$(UV) pip compile pyproject.toml --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements.lock
	$(UV) pip compile pyproject.toml --group dev --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements-dev.lock

system:
	@hack/system-packages.sh

$(VENV)/ready: requirements-dev.lock pyproject.toml hack/compile_kernel.py src/lq_operator/core/placement/kernel.c
	@hack/system-packages.sh
	test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	command -v uv >/dev/null || test -x .tools/bin/uv || { $(PYTHON) -m venv .tools && .tools/bin/pip install -q uv; }
	$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements-dev.lock
	$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	touch $@

clean:           ## remove what was built here
	rm -rf $(VENV) .tools dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
