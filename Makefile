# `make run` and `make test` need Python 3.11+ with venv, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# four tests more at a time than there are cores: many only wait
JOBS = $(shell $(BIN)/python -c 'import os; print(min(10, (os.cpu_count() or 1) + 4))')

.PHONY: run serve up test coverage check chaos bench api format lock clean help

run: $(VENV)/.installed ## a finished page in .sparklio/runs/<id>/, no server, no key
	$(BIN)/sparklio run

serve: $(VENV)/.installed-server ## the gateway and runs over HTTP, on this machine alone
	$(BIN)/sparklio serve

up: ## server, workers, Redis and PostgreSQL in containers; see compose.yaml for what .env must say
	docker compose up --build

test: $(VENV)/.installed-dev ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n $(JOBS) --dist worksteal --durations=25

coverage: $(VENV)/.installed-dev ## the tests, twice as slow, with the branches that they take
	$(BIN)/pytest -n $(JOBS) --dist worksteal --cov --cov-report=term

check: test ## the same as `make test`

chaos: $(VENV)/.installed-dev ## thousands of runs that are killed, fail, load a server, lose machines; an hour
	KILL_TRIALS=$${KILL_TRIALS:-300} CHAOS_RUNS=$${CHAOS_RUNS:-2000} LOAD_RUNS=$${LOAD_RUNS:-2000} \
		DISTRIBUTED_RUNS=$${DISTRIBUTED_RUNS:-1000} MIXED_LOAD_S=$${MIXED_LOAD_S:-600} \
		$(BIN)/pytest -s tests/test_kill.py tests/test_full_disk.py tests/test_chaos.py tests/test_http_load.py \
		tests/test_many_machines.py tests/test_mixed_load.py

bench: $(VENV)/.installed-dev ## speed, as ratios beside a plain script and a bare LangGraph
	$(BIN)/python benchmarks/run.py

api: $(VENV)/.installed-dev ## rewrite docs/sparklio.postman_collection.json, after a change of the endpoints
	$(BIN)/python -m sparklio.server.postman > .api.json
	mv .api.json docs/sparklio.postman_collection.json

format: $(VENV)/.installed-dev ## rewrite the sources in the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.installed-dev ## resolve the dependencies anew
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-emit-index-url --no-header --extra dev pyproject.toml -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-emit-index-url --no-header -c requirements-dev.lock pyproject.toml -o requirements.lock

clean: ## remove what was installed and built; runs are kept
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .coverage

help:
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Sparklio needs Python 3.11 or newer; choose one with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.installed-server: requirements-dev.lock $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements-dev.lock --editable '.[server]'
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@touch $@
