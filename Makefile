# Two commands: `make repro` trains, `make test` tests. Both install what they need into .venv first.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/installed
CONFIGS := $(sort $(wildcard configs/*.yaml))
PYTEST := python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder  # long files come first
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: configure config-is-named repro test test-slow test-browser coverage lint study suite bench bench-check gpu clean-work lock docs

repro: $(INSTALLED)
	@python -m commands.plan
	@dvc repro
	@python -m commands.table metrics/history.csv metrics/summary.json metrics/confusion.csv
	@echo "Open metrics/page.html to see why."

test: $(INSTALLED) lint
	$(PYTEST)

coverage: $(INSTALLED)
	$(PYTEST) --cov --cov-report term

test-slow: $(INSTALLED)
	python -m pytest -m slow

test-browser: $(INSTALLED)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check 'playwright==1.65.*' 'axe-playwright-python==0.1.*'
	python -m pytest -m browser tests/browser

lint: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy

study: $(INSTALLED)
	python -m benchmarks.study $(STUDY)

suite: $(INSTALLED)
	@test -n "$(SOURCE)" || { echo "error: SOURCE is empty; write make suite SOURCE=FOLDER with the Parquet files" >&2; exit 1; }
	python -m benchmarks.suite $(SOURCE)

bench: $(INSTALLED)
	python -m benchmarks.speed

bench-check: $(INSTALLED)
	python -m benchmarks.speed --check

gpu:
	$(PYTHON) -m benchmarks.gpu $(if $(CIFAR10),--cifar10 $(CIFAR10))

docs: $(INSTALLED)
	python -m commands.docs

configure: config-is-named $(INSTALLED)
	@python -m commands.configure $(CONFIG)

config-is-named:
	@test -n "$(CONFIG)" || { echo "error: CONFIG is empty; write make configure CONFIG=FILE with one of $(CONFIGS)" >&2; exit 1; }

clean-work: $(INSTALLED)
	python -m commands.clean_work

lock: $(INSTALLED)
	pip-compile --quiet --strip-extras --extra pipeline --extra slurm --extra s3 --extra export --extra serve --extra dev --no-emit-find-links --no-emit-index-url --output-file requirements.lock pyproject.toml
	sed -i 's/+cpu//' requirements.lock

$(INSTALLED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "installing into $(VENV), which takes some minutes"
	@$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@
