# Two commands do all the set-up: `make demo` shows the product, `make test` proves it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo install test test-full check format lock means training clean

demo: $(VENV)/run.stamp
	@$(BIN)/smartsite demo

install: $(VENV)/run.stamp
	@echo "smartsite is installed: $(BIN)/smartsite --help"

test: $(VENV)/dev.stamp
	@$(BIN)/python -m pytest -m "not full"

test-full: $(VENV)/dev.stamp
	@$(BIN)/python -m pytest

check: $(VENV)/dev.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

$(VENV)/python.stamp:
	@command -v $(PYTHON) >/dev/null || { echo "smartsite needs Python 3.11 or later: no $(PYTHON) found (set PYTHON=…)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "smartsite needs Python 3.11 or later: $(PYTHON) is $$($(PYTHON) -V 2>&1 | cut -d" " -f2) (set PYTHON=…)"; exit 1; }
	@$(PYTHON) -c 'import platform, sys; name, version = platform.libc_ver(); sys.exit(sys.platform == "linux" and (name != "glibc" or tuple(map(int, version.split("."))) < (2, 28)))' || { echo "smartsite needs glibc 2.28 or later on Linux (Debian 10, Ubuntu 20.04, RHEL 8 or newer; not Alpine)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "smartsite needs Python's venv: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run.stamp: requirements/run.txt pyproject.toml | $(VENV)/python.stamp
	@echo "installing the pinned dependencies (about 250 MB)"
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(MAKE) --no-print-directory $(VENV)/link.stamp
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt pyproject.toml | $(VENV)/python.stamp
	@echo "installing the pinned dependencies and the tools of the tests"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(MAKE) --no-print-directory $(VENV)/link.stamp
	@touch $@ $(VENV)/run.stamp

# The project itself, by its own build back end, pinned like everything else.
$(VENV)/link.stamp: requirements/build.txt pyproject.toml | $(VENV)/python.stamp
	@$(PIP) install --require-hashes -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet pyproject.toml -o requirements/run.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet pyproject.toml --group dev -c requirements/run.txt -o requirements/dev.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --group training -c requirements/run.txt -o requirements/training.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --group build -c requirements/dev.txt -o requirements/build.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --group means -o requirements/means.txt

# Only after means.c was changed: its WebAssembly is in the repository.
means: | $(VENV)/python.stamp
	@$(PYTHON) -m venv .venv-means
	@.venv-means/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/means.txt
	@.venv-means/bin/python detectors/vision/means/build.py

# Gigabytes, in an environment of their own; see detectors/training/README.md.
training: | $(VENV)/python.stamp
	@$(PYTHON) -m venv .venv-training
	@.venv-training/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/training.txt
	@echo "next: .venv-training/bin/python -m detectors.training --help"

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
