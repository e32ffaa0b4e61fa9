# Every target sets itself up: the first one makes .venv, which needs python3 with pip and nothing
# else (tools/bootstrap.py says how). All further calls find it ready.

PYTHON ?= python3
PY := .venv/bin/python
SHARDKV := .venv/bin/shardkv

# Debian packages that only the tests marked `system` use, and the programs that those look for.
SYSTEM_PACKAGES := strace chromium etcd-server wrk fuse3
SYSTEM_PROGRAMS := strace chromium etcd wrk fusermount3

# How many tests at a time; those with real processes keep to one of the workers.
WORKERS ?= 2

# More options for pytest: make test ARGS="-k leader -x"
ARGS ?=

# Which tests `make test` runs.
TESTS = not system

# Of `make simulate`: how many fixed seeds, and for how many minutes new ones (0: none).
SEEDS ?= 40
MINUTES ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-system check lint types smoke simulate scenarios mutants chaos format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv ready (done by every target that needs it)
	@command -v $(PYTHON) >/dev/null || { echo "set-up: $(PYTHON) not found" >&2; exit 1; }
	@$(PYTHON) tools/bootstrap.py

demo: setup ## Watch a controller group lose a peer, go on, and get it back: 3 and 5 peers
	$(SHARDKV) demo
	$(SHARDKV) demo --down leader

test: setup ## Run the tests (all but those that need a Debian package or the network)
	$(PY) -m pytest -m "$(TESTS)" -n $(WORKERS) --dist loadgroup $(ARGS)

test-system: setup ## Run the tests that need more of the machine; as root, install what they use
	@if (for one in $(SYSTEM_PROGRAMS); do command -v $$one >/dev/null || exit 1; done); then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq install -y --no-install-recommends $(SYSTEM_PACKAGES) >/dev/null; \
	else echo "test-system: not installed, and not root: $(SYSTEM_PACKAGES)" >&2; fi
	$(PY) -m pytest -m system -rs -n $(WORKERS) --dist loadgroup $(ARGS)

# It plays all the scenarios, so its tests need not play them once more.
check: TESTS = not system and not scenario
check: lint types test smoke scenarios simulate ## Everything a change must pass

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: setup
	$(PY) -m mypy

smoke: setup ## Start a real cluster, use it, stop it, and verify what it left on disk
	$(PY) -m tools.smoke

simulate: setup ## Play a fixed set of seeds, and new ones for a minute
	$(SHARDKV) simulate --seeds $(SEEDS)
	$(if $(filter-out 0,$(MINUTES)),$(SHARDKV) simulate --minutes $(MINUTES))

scenarios: setup ## Play the labs' tests by name, all of them in all variants
	$(SHARDKV) scenarios

mutants: setup ## Plant every known bug in turn, and see what finds it (half an hour)
	$(SHARDKV) mutants

chaos: setup ## Torment a real cluster for five minutes, and judge what it did
	$(SHARDKV) chaos --minutes 5 --report chaos-report-$$(date +%Y%m%d-%H%M%S)

format: setup ## Rewrite the code in the house format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

# The data of a cluster (shardkv-data/) is the user's: clean never touches it.
clean: ## Remove .venv, caches and build products
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
