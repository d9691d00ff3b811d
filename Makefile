# make quickstart    from a fresh clone: an environment, then a whole search
# make test          style, types, and the tests that take seconds
# make nightly       all tests, thousands of kills, and the benchmarks that are quick (hours)
# make gpu-check     what candidates cost on this machine's device; SIZES="135M 1B" for some only
# make clean         away with the environment and the caches; runs/ stays
#
# Needs nothing but python3. What can be set:
#   make test PYTEST_ARGS="-k ties"      further arguments for pytest
#   make test PYTHON=python3.12 VENV=/tmp/venv CONSTRAINTS=/dev/null
#   make quickstart RECIPE=my.yaml

PYTHON = python3
VENV = .venv
RECIPE = recipes/quickstart.yaml
PYTEST_ARGS =
TORCH = torch==2.13.0
# Some of the pinned versions are for 3.11 and newer: pip chooses what suits 3.10.
CONSTRAINTS = $(shell $(PYTHON) -c \
	'import sys; print("constraints.txt" if sys.version_info >= (3, 11) else "/dev/null")')

BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
HINT = { echo "make: the packages could not be installed. Without a network, point pip at a folder" \
	"of wheels (PIP_FIND_LINKS=folder PIP_NO_INDEX=1) and run the same command again." >&2; exit 1; }

# Tests start hundreds of processes: what is imported is compiled once, not by each of them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test nightly gpu-check install clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/.installed
	$(BIN)/evomerge search $(RECIPE)

test: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	[ "$(CONSTRAINTS)" = /dev/null ] || $(BIN)/python -m mypy  # other versions have other types
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Its result is a page in docs/, for a person to look at and to commit.
nightly: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "" --timeout 0 --junitxml build/nightly.xml $(PYTEST_ARGS); code=$$?; \
		$(BIN)/python -m tests.nightly build/nightly.xml docs/nightly-$$(date +%F).md \
			$(PYTEST_ARGS) && exit $$code
	@for file in benchmarks/quick_*.py; do \
		if [ -f "$$file" ]; then echo "$$file"; $(BIN)/python "$$file" || exit 1; fi; \
	done

gpu-check: $(VENV)/.installed
	$(BIN)/python benchmarks/gpu_check.py $(if $(SIZES),--sizes $(SIZES))

install: $(VENV)/.installed-dev

# torch first and by itself: asked for as a dependency, pip may take a build for another device.
$(VENV)/.installed: setup.cfg $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "make: Python 3.10 or newer is needed; name one with PYTHON=" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || \
		{ echo "make: '$(PYTHON) -m venv' failed (on Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "installing into $(VENV): minutes the first time, nothing after that"
	@$(INSTALL) $(TORCH) "setuptools>=77" || $(HINT)
	@$(INSTALL) --no-build-isolation -e . || $(HINT)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(INSTALL) --no-build-isolation -e ".[dev]" || $(HINT)
	@touch $@

clean:
	rm -rf $(VENV) build dist evomerge.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
