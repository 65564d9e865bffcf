# Scaling studies of Diffusion Transformers. Bare `make` lists what there is.
#
# Standard output belongs to the command: set-up speaks on standard error, so that FORMAT=json can be piped.

SWEEP     ?=
SCALE     ?=
SET       ?=
FORMAT    ?=
EXTRACTOR ?=
OUT       ?= runs
DATA      ?= data
PORT      ?= 5000
PYTHON    ?= python3

VENV      := .venv
STAMP     := $(VENV)/.installed
LOG       := $(VENV)/install.log
RUN        = $(VENV)/bin/python -m
FASHION    = $(DATA)/fashion-mnist.parquet
SWEEPS     = $(filter-out __%,$(notdir $(basename $(wildcard sweeps/*.py))))

# The default dataset, fetched up front; a sweep over another one prepares that one itself.
DEFAULT_DATA = $(if $(findstring data.dataset=,$(SET))$(filter paper,$(SCALE)),,$(FASHION))

# Options of `python -m sweeps`, each only when given.
STUDY   = $(if $(SCALE),--scale "$(SCALE)") $(if $(SET),--set "$(SET)") $(if $(EXTRACTOR),--extractor "$(EXTRACTOR)")
FOLDERS = --out "$(OUT)" --data "$(DATA)"

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help sweep plan status report ui test lint bench data clean named

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  SWEEP=$$(echo $(SWEEPS) | tr ' ' '|')  SCALE=smoke|cpu|gpu|paper  SET=\"train.images=50000 seeds=3\""
	@echo "  FORMAT=table|json  EXTRACTOR=lite0|inception  OUT=$(OUT)  DATA=$(DATA)  PORT=$(PORT)  PYTHON=$(PYTHON)"

sweep: named $(STAMP) $(DEFAULT_DATA) ## run SWEEP, resume it or skip what is done, and write its report
	@$(RUN) sweeps run "$(SWEEP)" $(STUDY) $(FOLDERS)

plan: named $(STAMP) ## what SWEEP would run, with Gflops, memory and time, before spending any (FORMAT=json)
	@$(RUN) sweeps plan "$(SWEEP)" $(STUDY) $(FOLDERS) $(if $(FORMAT),--format "$(FORMAT)")

status: named $(STAMP) ## which trials of SWEEP are done, running, failed or to do
	@$(RUN) sweeps status "$(SWEEP)" $(STUDY) $(FOLDERS)

report: named $(STAMP) ## redraw the report of SWEEP from MLflow alone
	@$(RUN) analysis.report --sweep "$(SWEEP)" --out "$(OUT)"

ui: $(STAMP) ## the MLflow UI on what has been run, at 127.0.0.1:PORT
	@store="$${MLFLOW_TRACKING_URI:-}"; \
	case "$$store" in \
	  http://*|https://*) echo "runs are tracked by a server: open $$store"; exit 0 ;; \
	  "") test -f "$(OUT)/mlflow.db" || { echo "error: $(OUT)/mlflow.db: nothing has been run there yet; make sweep SWEEP=smoke takes two minutes" >&2; exit 1; }; \
	      store="sqlite:///$$(cd "$(OUT)" && pwd)/mlflow.db" ;; \
	esac; \
	echo "MLflow at http://127.0.0.1:$(PORT) on $$store; Ctrl-C ends it" >&2; \
	$(RUN) sweeps links "http://127.0.0.1:$(PORT)" --out "$(OUT)" >&2; \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true \
	  exec $(RUN) mlflow server --workers 1 --host 127.0.0.1 --port "$(PORT)" --backend-store-uri "$$store"

test: $(STAMP) ## all tests
	@$(MAKE) data || true # without the data its tests are skipped, and say so
	@$(RUN) pytest

lint: $(STAMP) ## ruff, rules and format
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

bench: $(STAMP) ## figures of speed
	@if ls tests/benchmarks/test_*.py >/dev/null 2>&1; then $(RUN) pytest tests/benchmarks -m benchmark; \
	else echo "no benchmarks in tests/benchmarks yet"; fi

data: $(FASHION) ## Fashion-MNIST, fetched, checked and decoded once
	@:

$(FASHION): | $(STAMP)
	@$(RUN) harness.data fashion-mnist --folder "$(DATA)" >&2

clean: ## remove .venv, caches and build leftovers; never data or runs
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	@find . \( -path ./.git -o -path "./$(DATA)" -o -path "./$(OUT)" \) -prune \
	  -o -type d -name __pycache__ -prune -exec rm -rf {} +
	@echo "kept $(DATA)/ and $(OUT)/: they are yours to delete"

named:
	@test -n "$(SWEEP)" || { echo "error: which sweep? SWEEP=NAME, one of: $(SWEEPS)" >&2; exit 1; }

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1 | tail -n 1); Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: PYTHON=$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing packages into $(VENV) (about two minutes, 6 GB)..." >&2
	@mkdir -p $(VENV)
	@{ $(PYTHON) -m venv $(VENV) && $(RUN) pip install --no-compile -c constraints.txt -e '.[dev]'; } >$(LOG) 2>&1 || { \
	  grep -i error $(LOG) | tail -n 3 >&2; echo "error: installing failed; the whole log is in $(LOG)" >&2; exit 1; }
	@# Bytecode for all at once, on every core: it halves the start of each command and worker. Some files of some
	@# packages are templates that cannot compile.
	@$(RUN) compileall -q -j 0 $(VENV)/lib >>$(LOG) 2>&1 || true
	@touch $@
