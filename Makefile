# Two commands: `make demo` shows hfkit at work, `make test` tests it. Each installs what it needs into .venv first.
# `make demo APP=0` leaves the app out; PYTHON=python3.12 takes another Python.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
APP ?= 1

.PHONY: demo test unit style test-slow lint types clean

demo: $(VENV)/.demo
	$(BIN)/hfkit run recipes/quickstart.yaml
	@if [ "$(APP)" != "0" ]; then $(BIN)/hfkit app recipes/quickstart.yaml; fi

# Types are checked beside the tests, which leave a core alone now and then.
test: $(VENV)/.test
	@$(MAKE) --no-print-directory -j 2 unit style

unit: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

style: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-slow: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

lint: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.test
	$(BIN)/mypy

# A virtual environment with the versions that the tests ran with. torch goes first: its pinned version must be there
# before anything else asks for "some torch".
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "hfkit needs Python 3.10 or newer; try make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing hfkit into $(VENV) (a few minutes, once): PyTorch first,"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@echo "then hfkit and the libraries that it stands on,"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cpu]"
	@echo "and two small models"
	@$(BIN)/python -m hfkit.models.embedded
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "installing what the tests need into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cpu,dev]"
	@touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
