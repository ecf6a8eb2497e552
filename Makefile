# Opsin's two commands are `make up` and `make test`. Both set up what they need, once.
# Every OPSIN_… variable is passed on: OPSIN_PORT=8001 OPSIN_HOME=./var2 make up

# Container images set this; without compiled modules each start of TensorFlow takes 8 seconds more.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
OPSIN := $(VENV)/bin/opsin
# A third of the time a test waits, for its own processes or for a moment to pass, so that three at a
# time keep two cores busy. xdist would put files of few tests last, but `tests/conftest.py` puts those
# first that take longest.
PYTEST := $(VENV)/bin/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder

.PHONY: help up setup test test-all check audit sbom bench chaos soak fuzz costs lock clean

help:
	@echo 'make up        start Opsin here; Ctrl-C stops it'
	@echo 'make setup     install and fetch what the other targets need; start nothing'
	@echo 'make test      the default tests'
	@echo 'make test-all  the slow tests too'
	@echo 'make check     lint, format, types, import rules, the OpenAPI document'
	@echo 'make audit     licenses, bill of materials, known vulnerabilities of the pinned packages'
	@echo 'make sbom      only the bill of materials: build/sbom.json'
	@echo 'make bench     compare with other servers, 25 minutes; QUICK=1 for a first look'
	@echo 'make chaos     break every part under load and count lost requests; 30 minutes'
	@echo 'make soak      100,000 requests, watching for growth; SOAK_REQUESTS=5000 for fewer'
	@echo 'make fuzz      hostile bytes to every parser; FUZZ_EXAMPLES=1000 for fewer'
	@echo 'make costs     the most expensive requests to every route, in processor time; 5 minutes'
	@echo 'make lock      pin the dependencies of pyproject.toml again'
	@echo 'make clean     remove what was installed; the data in var/ stays'

# exec: Ctrl-C reaches only opsin, and make returns when opsin does.
up:
	@scripts/venv worker
	@exec $(OPSIN) up

setup:
	@scripts/venv dev
	@$(OPSIN) weights pull

test: fetched
	@$(PYTEST)

test-all: fetched
	@$(PYTEST) -m ''

# Into the home that the tests use, whatever service runs here.
.PHONY: fetched
fetched:
	@scripts/venv dev
	@OPSIN_HOME="$${OPSIN_HOME:-var}" $(OPSIN) weights pull || \
		echo 'Tests that need the missing files will be skipped.' >&2

check:
	@scripts/venv dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	@scripts/openapi

audit:
	@scripts/venv dev
	@scripts/audit $(if $(OFFLINE),--offline)

sbom:
	@scripts/venv dev
	@scripts/sbom

# exec: Ctrl-C reaches only the benchmark, which then stops everything it started.
bench:
	@scripts/venv dev
	@exec $(VENV)/bin/python -m benchmarks.comparison $(if $(QUICK),--quick) $(BENCH)

# Single faults, then a rolling restart, then three times the load; CHAOS="--only Valkey" for a few,
# DATABASE=postgresql for a database of that kind, here and in `make soak`.
DATABASE_OPTION := $(if $(filter postgresql,$(DATABASE)),--postgresql)
chaos: fetched
	@exec $(VENV)/bin/python -m tests.reliability.chaos $(DATABASE_OPTION) $(CHAOS)
ifndef CHAOS
	@exec $(VENV)/bin/python -m tests.reliability.restart $(DATABASE_OPTION)
	@exec $(VENV)/bin/python -m tests.reliability.overload $(DATABASE_OPTION)
endif

soak: fetched
	@exec $(VENV)/bin/python -m tests.reliability.soak --requests $(or $(SOAK_REQUESTS),100000) $(DATABASE_OPTION)

fuzz:
	@scripts/venv dev
	@exec $(VENV)/bin/python -W ignore -m tests.reliability.fuzz --examples $(or $(FUZZ_EXAMPLES),20000)

costs: fetched
	@exec $(VENV)/bin/python -W ignore -m tests.reliability.request_costs

lock:
	@scripts/venv dev
	@scripts/lock

clean:
	rm -rf $(VENV) .venv-bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
