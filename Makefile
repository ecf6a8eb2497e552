# Opsin's two commands are `make up` and `make test`. Both set up what they need, once.
# Any OPSIN_… variable goes through: OPSIN_PORT=8001 OPSIN_HOME=./var2 make up

VENV := .venv
OPSIN := $(VENV)/bin/opsin
# On two cores most tests wait for processes of theirs, so two at a time take little over half as long.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadgroup

.PHONY: help up setup test test-all check audit sbom bench chaos soak fuzz lock clean

help:
	@echo 'make up        start Opsin here; Ctrl-C stops it'
	@echo 'make setup     install and fetch all that the others need, start nothing'
	@echo 'make test      the default tests'
	@echo 'make test-all  the slow ones too'
	@echo 'make check     lint, format, types, import rules'
	@echo 'make audit     licences, bill of materials, known vulnerabilities of what is pinned'
	@echo 'make sbom      the bill of materials alone: build/sbom.json'
	@echo 'make bench     compare with other servers, 12 minutes; QUICK=1 for a first look'
	@echo 'make chaos     break every part under load, count what is lost; 30 minutes'
	@echo 'make soak      100,000 requests, and whether anything grows; SOAK_REQUESTS=5000 for fewer'
	@echo 'make fuzz      hostile bytes at every gate; FUZZ_EXAMPLES=1000 for fewer'
	@echo 'make lock      pin the dependencies of pyproject.toml anew'
	@echo 'make clean     remove what was installed; your data in var/ stays'

# exec: Ctrl-C reaches opsin alone, and make returns when it does.
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

.PHONY: fetched
fetched:
	@scripts/venv dev
	@$(OPSIN) weights pull || echo 'Tests that need what is missing will be skipped.' >&2

check:
	@scripts/venv dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

audit:
	@scripts/venv dev
	@scripts/audit $(if $(OFFLINE),--offline)

sbom:
	@scripts/venv dev
	@scripts/sbom

# exec: Ctrl-C reaches the benchmark alone, which then stops all that it started.
bench:
	@scripts/venv dev
	@exec $(VENV)/bin/python -m benchmarks.bench $(if $(QUICK),--quick) $(BENCH)

# Faults one by one, then a rolling restart, then three times the load; CHAOS="--only Valkey" for a few.
chaos: fetched
	@exec $(VENV)/bin/python -m tests.reliability.chaos $(CHAOS)
ifndef CHAOS
	@exec $(VENV)/bin/python -m tests.reliability.restart
	@exec $(VENV)/bin/python -m tests.reliability.overload
endif

soak: fetched
	@exec $(VENV)/bin/python -m tests.reliability.soak --requests $(or $(SOAK_REQUESTS),100000)

fuzz:
	@scripts/venv dev
	@exec $(VENV)/bin/python -W ignore -m tests.reliability.fuzz --examples $(or $(FUZZ_EXAMPLES),20000)

lock:
	@scripts/venv dev
	@scripts/lock

clean:
	rm -rf $(VENV) .venv-bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
