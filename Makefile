# Needs make, git, a package index and Python 3.10 or newer. Everything it makes is under .venvs, .airflow and dist.

NEWEST  := 3.3.2
AIRFLOW ?= $(NEWEST)
PYTHON  ?= python3

KNOWN := $(patsubst constraints/airflow-%.txt,%,$(wildcard constraints/airflow-*.txt))
ifeq ($(filter $(AIRFLOW),$(KNOWN)),)
    $(error AIRFLOW=$(AIRFLOW) is not one of $(KNOWN))
endif

# An environment's stamp names the Python that made it, so that another PYTHON makes it again.
STAMP  := .made-by-$(notdir $(PYTHON))
VENV   := .venvs/$(AIRFLOW)
PY     := $(VENV)/bin/python
READY  := $(VENV)/$(STAMP)
CHECKS := .venvs/$(NEWEST)
CELERY := .venvs/distributed
DOCS   := .venvs/docs
LOWEST := .venvs/lowest
ALIPAI := .venvs/alipai
FAB    := .venvs/fab

# What the shell has set for another project or another Airflow stays out. Without bytecode to keep, each of
# Airflow's many processes compiles all of it again, which doubles what it takes to start.
unexport PYTHONDONTWRITEBYTECODE PYTHONHOME PYTHONPATH VIRTUAL_ENV $(filter AIRFLOW_%,$(.VARIABLES))
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export AIRFLOW_HOME := $(CURDIR)/.airflow/$(AIRFLOW)
export AIRFLOW__CORE__LOAD_EXAMPLES := False
export SCARF_ANALYTICS := false

.DEFAULT_GOAL := help
.PHONY: help demo ui test test-all e2e stories alone browser forms page chromium distributed mutants lint types bench
.PHONY: screenshots constraints docs pythons wheel check-wheel clean

help:  ## this list
	@echo "make TARGET [AIRFLOW=$(AIRFLOW)] [PYTHON=$(PYTHON)]"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "AIRFLOW is one of $(KNOWN)"

demo: $(READY)  ## run the example DAGs against a local PAI, with no account and no network
	@$(PY) -m demo

ui: $(CHECKS)/$(STAMP)  ## the examples in the web interface of the newest Airflow, with a local PAI
	@$(CHECKS)/bin/python -m demo.ui

test: $(READY) $(if $(filter $(NEWEST),$(AIRFLOW)),lint types)  ## lint and types (with the newest Airflow), and the tests that start no Airflow
	$(PY) -m pytest -q -n 4 --dist worksteal -m "not whole_table" --hypothesis-profile quick

test-all: $(KNOWN:%=.venvs/%/$(STAMP)) $(LOWEST)/$(STAMP) $(ALIPAI)/$(STAMP)  ## the same tests on every supported Airflow, and one table
	@$(CHECKS)/bin/python -m tests.matrix $(KNOWN)

# The oldest Python with the oldest Airflow, and the newest one that the tests have run on with the newest.
PYTHONS := 3.10-with-2.10.4 3.13-with-$(NEWEST)

pythons: $(PYTHONS:%=.venvs/python%/.made)  ## all tests on the oldest and the newest Python, which must be installed (20 min)
	@failed=0; for each in $(PYTHONS); do echo "==> Python $$each"; \
	    .venvs/python$$each/bin/python -m pytest -q -n 2 --dist worksteal || failed=1; done; exit $$failed

E2E := $(NEWEST) 3.2.2 3.1.0 2.10.4

e2e: stories alone  ## tests with whole Airflows: scheduler, triggerer, API server, dag processor (with -j2 side by side)

# Those that share one Airflow of each version, and those of which each has its own.
ALONE := tests/e2e/test_ui.py tests/e2e/test_waiting.py

stories: $(E2E:%=.venvs/%/$(STAMP))
	$(CHECKS)/bin/python -m pytest -q tests/e2e $(ALONE:%=--ignore=%) $(PICTURED:%=--ignore=%)

alone: $(CHECKS)/$(STAMP)
	$(CHECKS)/bin/python -m pytest -q $(ALONE)

PICTURED   := tests/e2e/test_forms.py tests/e2e/test_gates_page.py
SHOWN      := 3.3.2 3.2.2 3.1.0 3.0.6 2.10.4
PLAYWRIGHT := playwright==1.65.2

browser: forms page  ## the connection form, a task's links and the page of gates in a real browser (with -j2 side by side)

forms: chromium $(SHOWN:%=.venvs/%/$(STAMP))
	$(CHECKS)/bin/python -m pytest -q --durations=3 tests/e2e/test_forms.py

page: chromium $(SHOWN:%=.venvs/%/$(STAMP)) $(FAB)/$(STAMP)
	$(CHECKS)/bin/python -m pytest -q --durations=3 tests/e2e/test_gates_page.py

chromium: $(CHECKS)/$(STAMP)
	@command -v chromium > /dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; } || \
	    { echo "No Chromium is on the PATH; on Debian, as root: apt-get install chromium"; exit 1; }
	@$(CHECKS)/bin/uv pip install --quiet --python $(CHECKS)/bin/python $(PLAYWRIGHT)

distributed: $(CELERY)/$(STAMP)  ## 200 waits over two workers, schedulers and triggerers; one of each is killed
	$(CELERY)/bin/python -m pytest -q -s tests/distributed

mutants: $(CHECKS)/$(STAMP)  ## put each fault of tests/mutants.py into a copy of the package: the tests must fail (5 to 10 min)
	@$(CHECKS)/bin/python -m tests.mutants

lint: $(CHECKS)/$(STAMP)  ## ruff: its rules and its format
	$(CHECKS)/bin/ruff check .
	$(CHECKS)/bin/ruff format --check .

types: $(CHECKS)/$(STAMP)  ## mypy, strict, against the newest Airflow
	$(CHECKS)/bin/mypy

# Airflow 2.10.4 brings a provider for HTTP, with deferred sensors, which its constraints pin.
bench: $(CHECKS)/$(STAMP) .venvs/2.10.4/$(STAMP)  ## measure clients and imports, the event loop's stalls, and a thousand waits
	@$(CHECKS)/bin/uv pip install --quiet --python $(CHECKS)/bin/python apache-airflow-providers-http==6.3.0
	@$(CHECKS)/bin/python -m benchmarks
	@$(CHECKS)/bin/python -m benchmarks.blocking
	@$(CHECKS)/bin/python -m benchmarks.waiting

# The docstrings are read from the package as it is imported, so that this environment has an Airflow too.
docs: $(DOCS)/$(STAMP)  ## build the site of the docs into site/, and check all of its links (Python 3.11 or newer)
	$(DOCS)/bin/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env -c docs . site
	@echo "Open site/index.html"

screenshots: chromium  ## take docs/images anew, where the tests in the browser pass
	@$(CHECKS)/bin/uv pip install --quiet --python $(CHECKS)/bin/python pillow
	$(CHECKS)/bin/python -m pytest -q $(PICTURED) -k $(NEWEST)
	@$(CHECKS)/bin/python docs/screenshots.py

constraints: $(CHECKS)/$(STAMP)  ## pin every supported Airflow's environment anew
	@constraints/compile $(CHECKS)/bin/uv

wheel: $(CHECKS)/$(STAMP)  ## build dist/*.tar.gz, and from it dist/*.whl
	@rm -rf dist
	@$(CHECKS)/bin/uv build --quiet --out-dir dist
	@ls dist/*

check-wheel: wheel  ## the wheel alone, with every supported Airflow in an empty environment
	$(CHECKS)/bin/uv tool run --quiet twine==7.0.0 check --strict dist/*
	$(CHECKS)/bin/python -m pytest -q tests/check_wheel.py

clean:  ## remove what make has made
	rm -rf .venvs .airflow dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache

# On top of the newest Airflow, so that its own environment stays what the tests know.
$(CELERY)/$(STAMP): $(CHECKS)/$(STAMP) constraints/distributed.txt
	@echo "==> installing what many machines need into $(CELERY)"
	@rm -rf $(CELERY)
	@$(CHECKS)/bin/uv venv --quiet --python $(CHECKS)/bin/python $(CELERY)
	@$(CHECKS)/bin/uv pip install --quiet --python $(CELERY)/bin/python \
	    -r constraints/airflow-$(NEWEST).txt -r constraints/distributed.txt -e .
	@touch $@

.venvs/python%/.made: pyproject.toml | $(CHECKS)/$(STAMP)
	@echo "==> installing into $(@D)"
	@rm -rf $(@D)
	@$(CHECKS)/bin/uv venv --quiet --python $(firstword $(subst -with-, ,$*)) $(@D)
	@$(CHECKS)/bin/uv pip install --quiet --python $(@D)/bin/python \
	    -r constraints/airflow-$(lastword $(subst -with-, ,$*)).txt -e .
	@touch $@

$(DOCS)/$(STAMP): $(CHECKS)/$(STAMP) constraints/docs.txt
	@echo "==> installing what makes the site of the docs into $(DOCS)"
	@rm -rf $(DOCS)
	@$(CHECKS)/bin/uv venv --quiet --python $(CHECKS)/bin/python $(DOCS)
	@$(CHECKS)/bin/uv pip install --quiet --python $(DOCS)/bin/python \
	    -r constraints/airflow-$(NEWEST).txt -r constraints/docs.txt -e .
	@touch $@

# FAB's users, for the page of gates: an API server that its provider fits beside, as of that Airflow's time,
# and the lowest plotly that is declared.
$(FAB)/$(STAMP): .venvs/3.2.2/$(STAMP)
	@echo "==> installing Airflow 3.2.2 with FAB into $(FAB)"
	@rm -rf $(FAB)
	@.venvs/3.2.2/bin/uv venv --quiet --python .venvs/3.2.2/bin/python $(FAB)
	@.venvs/3.2.2/bin/uv pip install --quiet --python $(FAB)/bin/python --exclude-newer 2026-06-15 \
	    --exclude-newer-package pluggy=false \
	    apache-airflow==3.2.2 apache-airflow-providers-fab plotly==6.5.0 -e '.[ui]'
	@touch $@

# The Airflow is the oldest, which runs on fewer Pythons: PYTHON is checked where that one's environment is made.
$(LOWEST)/$(STAMP): constraints/lowest.txt pyproject.toml | .venvs/2.10.4/$(STAMP)
	@echo "==> installing the lowest versions of all that is declared into $(LOWEST)"
	@rm -rf $(LOWEST)
	@.venvs/2.10.4/bin/uv venv --quiet --python .venvs/2.10.4/bin/python $(LOWEST)
	@.venvs/2.10.4/bin/uv pip install --quiet --python $(LOWEST)/bin/python -r constraints/lowest.txt -e .
	@touch $@

# PAI's own SDK, for one test, which is skipped where this cannot be made: a package of it needs a C compiler.
$(ALIPAI)/$(STAMP): $(CHECKS)/$(STAMP) constraints/alipai.txt
	@echo "==> installing PAI's own SDK into $(ALIPAI)"
	@rm -rf $(ALIPAI)
	@$(CHECKS)/bin/uv venv --quiet --python $(CHECKS)/bin/python $(ALIPAI)
	@$(CHECKS)/bin/uv pip install --quiet --no-deps --python $(ALIPAI)/bin/python -r constraints/alipai.txt || \
	    { echo "==> it cannot be installed here, so that its test is skipped"; rm -rf $(ALIPAI)/bin; }
	@touch $@

# One environment for each Airflow, made again when what it is made from changes. (3.0 does not make its own home.)
.venvs/%/$(STAMP): constraints/airflow-%.txt pyproject.toml
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    sed -n 1p $< | grep -q "Python.* $$version[ .]" || \
	    { sed -n '1s/[.] Made.*/./p' $<; echo "# $(PYTHON) is none of these; name one: make PYTHON=python3.12"; exit 1; }
	@echo "==> installing Airflow $* into .venvs/$*: once, about a minute"
	@rm -rf $(@D) && mkdir -p .airflow/$*
	@$(PYTHON) -m venv $(@D) || \
	    { echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@if $(@D)/bin/python -m pip install --quiet uv; \
	    then $(@D)/bin/uv pip install --quiet --python $(@D)/bin/python -r $< -e .; \
	    else echo "==> uv is not to be had; pip takes longer"; $(@D)/bin/python -m pip install --quiet -r $< -e .; fi
	@touch $@
