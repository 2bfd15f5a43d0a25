# Two commands are all a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types imports unit thorough page page-where-node-is page-types format lock clean

# The environment is made again when a lock file or the project's own declaration changes.
$(VENV)/run.stamp: requirements/run.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/develop.stamp: $(VENV)/run.stamp requirements/develop.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/develop.lock
	touch $@

demo: $(VENV)/run.stamp  ## the handbook in docs/handbook becomes a dataset, with the keyless model
	$(BIN)/gristmill run docs/handbook --workflow qa --model extractive

test: lint types imports page-where-node-is unit  ## everything that CI runs

lint: $(VENV)/develop.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/develop.stamp
	$(BIN)/mypy

imports: $(VENV)/develop.stamp
	$(BIN)/lint-imports --no-logo

unit: $(VENV)/develop.stamp
	$(BIN)/pytest -n 3

thorough: $(VENV)/develop.stamp  ## all tests, also the proofs that take minutes
	$(BIN)/pytest -n 2 -m "thorough or not thorough"

page:  ## builds the page into src/gristmill/web/static; the only target that needs Node
	cd web && npm ci --ignore-scripts --no-audit --no-fund && npm run build

page-where-node-is:
	@if command -v npm > /dev/null; then $(MAKE) page; else echo "no Node here: the tests of the built page are skipped"; fi

page-types: $(VENV)/develop.stamp  ## the page's types, from the API as it is now
	$(BIN)/python web/scripts/openapi.py > web/openapi.json
	cd web && npm run types

format: $(VENV)/develop.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/develop.stamp  ## needs uv; writes versions and hashes, no addresses
	uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --no-annotate --upgrade -o requirements/run.lock
	uv pip compile -q pyproject.toml --group dev --extra parquet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate --upgrade -o requirements/develop.lock

clean:
	rm -rf $(VENV) .gristmill .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
