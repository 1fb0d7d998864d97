# Everything starts here and needs Python 3.11, 3.12 or 3.13, make and a package index; `.venv` is made on the first use.
#   make demo       the whole chain on generated data, with pictures, in minutes
#   make serve      the demo's champion behind HTTP, with a page
#   make test       format, lint, types and all tests, including a real local Ray cluster
#   make test-fast  the tests that start no processes, under a minute
#   make soak       the long tests: processes killed at random moments until the work ends all the same
#   make setup      only the environment;  make lock  writes requirements.lock anew
#   make ray-up     a Ray on this machine that takes jobs (cluster/README.md);  make ray-down  ends it

# The first of these that is Python 3.11, 3.12 or 3.13 (`make PYTHON=... setup` to choose). A pyenv shim may exist and not run.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# uv does not read pip's settings: hand it the index that the machine's pip is set up with, if any.
USE_INDEX := i="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null)}}}"; \
	if test -n "$$i"; then export UV_DEFAULT_INDEX="$$i"; fi;
OUT ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo serve ray-up ray-down test test-fast soak lint lock clean

help:
	@sed -n '2,8s/^# *//p' Makefile

setup: $(STAMP)

# uv comes from the lock as well, so that nothing is installed whose hash nobody wrote down. Where Python has no ensurepip
# (Debian without python3-venv), the machine's own pip or uv fills the environment. All is compiled once: else each of the
# processes of a Ray compiles PyTorch again where PYTHONDONTWRITEBYTECODE is set, and waits for others to where it is not.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: needs Python 3.11, 3.12 or 3.13: install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -c '' 2>/dev/null || \
		{ rm -rf $(VENV); $(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV); }; }
	@$(BIN)/python -c 'import re; t = open("requirements.lock").read(); print(re.search(r"(?ms)^uv==.*?(?=^\S)", t)[0])' > $(VENV)/uv.txt
	@if test -x $(BIN)/uv; then :; \
	elif $(BIN)/python -m pip --version >/dev/null 2>&1; then $(BIN)/python -m pip install -q --require-hashes -r $(VENV)/uv.txt; \
	elif command -v uv >/dev/null; then uv pip install -q --python $(BIN)/python --require-hashes -r $(VENV)/uv.txt; \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -m pip --python $(BIN)/python install -q --require-hashes -r $(VENV)/uv.txt; \
	else echo "error: $(PYTHON) has no pip: install python3-venv (or python3-pip, or uv) and run make again" >&2; exit 1; fi
	@echo "installing what requirements.lock names into $(VENV) (about 6 GB, mostly torch)"
	@$(USE_INDEX) set -x; $(BIN)/uv pip sync -q --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	@$(USE_INDEX) set -x; $(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@
	@echo "ready; in this shell the stages are found after:  . .venv/bin/activate"

demo: setup
	$(BIN)/mail-ris demo --out $(OUT)

# 130: somebody pressed Ctrl-C
serve: setup
	@test -f $(OUT)/report.json || { echo "error: there is no demo in $(OUT): make demo first" >&2; exit 1; }
	MLFLOW_TRACKING_URI="$${MLFLOW_TRACKING_URI:-sqlite:///$(abspath $(OUT))/mlflow.db}" \
		$(BIN)/mail-ris serve --examples $(OUT)/store --corrections $(OUT)/corrections $(ARGS) || test $$? -eq 130

ray-up ray-down: setup
	@$(BIN)/python cluster/local_head.py $(@:ray-%=%)

test: lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test-fast: setup
	$(BIN)/pytest -m "not cluster and not soak"

soak: setup
	$(BIN)/pytest -m soak

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

lock: setup
	$(BIN)/uv pip compile -q pyproject.toml --group dev --constraint constraints.txt --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-header -o requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
