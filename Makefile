# Scaling studies of Diffusion Transformers. Bare `make` lists what there is.
#
# Standard output belongs to the command: set-up speaks on standard error, so that FORMAT=json can be piped.

SWEEP     ?=
SCALE     ?=
SET       ?=
FORMAT    ?=
RUN       ?=
TO        ?=
AUTOENCODER ?=
SOURCE    ?=
NAME      ?=
SIDE      ?=
FLIP      ?=
FROM      ?=
EXTRACTOR ?=
OUT       ?= runs
DATA      ?= data
PORT      ?= 5000
PYTHON    ?= python3

VENV      := .venv
STAMP     := $(VENV)/.installed
LOG       := $(VENV)/install.log
PY         = $(VENV)/bin/python -m
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
.PHONY: help sweep plan status report export ui latents test lint bench data clean named

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  SWEEP=$$(echo $(SWEEPS) | tr ' ' '|')  SCALE=smoke|cpu|gpu|paper  SET=\"train.images=50000 seeds=3\""
	@echo "  FORMAT=table|json|diffusers|official  EXTRACTOR=lite0|inception  OUT=$(OUT)  DATA=$(DATA)  PORT=$(PORT)  PYTHON=$(PYTHON)"

sweep: named $(STAMP) $(DEFAULT_DATA) ## run SWEEP, resume it or skip what is done, and write its report
	@$(PY) sweeps run "$(SWEEP)" $(STUDY) $(FOLDERS)

plan: named $(STAMP) ## what SWEEP would run, with Gflops, memory and time, before spending any (FORMAT=json)
	@$(PY) sweeps plan "$(SWEEP)" $(STUDY) $(FOLDERS) $(if $(FORMAT),--format "$(FORMAT)")

status: named $(STAMP) ## which trials of SWEEP are done, running, failed or to do
	@$(PY) sweeps status "$(SWEEP)" $(STUDY) $(FOLDERS)

report: $(STAMP) ## redraw the report of SWEEP, or of all sweeps, from MLflow alone, or FROM a runs.parquet
	@$(PY) analysis.report $(if $(SWEEP),--sweep "$(SWEEP)") --out "$(OUT)" $(if $(FROM),--from "$(FROM)")

export: $(STAMP) ## write the finished RUN (name or id) to the folder TO for other programs (FORMAT=diffusers|official)
	@test -n "$(RUN)" -a -n "$(TO)" || { echo "error: which run, and where to? RUN=NAME_OR_ID TO=FOLDER" >&2; exit 1; }
	@$(PY) sweeps export "$(RUN)" --to "$(TO)" $(FOLDERS) $(if $(FORMAT),--format "$(FORMAT)") \
	  $(if $(AUTOENCODER),--autoencoder "$(AUTOENCODER)")

ui: $(STAMP) ## the MLflow UI on what has been run, at 127.0.0.1:PORT
	@store="$${MLFLOW_TRACKING_URI:-}"; \
	case "$$store" in \
	  http://*|https://*) echo "runs are tracked by a server: open $$store"; exit 0 ;; \
	  "") test -f "$(OUT)/mlflow.db" || { echo "error: $(OUT)/mlflow.db: nothing has been run there yet; make sweep SWEEP=smoke takes two minutes" >&2; exit 1; }; \
	      store="sqlite:///$$(cd "$(OUT)" && pwd)/mlflow.db" ;; \
	esac; \
	echo "MLflow at http://127.0.0.1:$(PORT) on $$store; Ctrl-C ends it" >&2; \
	$(PY) sweeps links "http://127.0.0.1:$(PORT)" --out "$(OUT)" >&2; \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true \
	  exec $(PY) mlflow server --workers 1 --host 127.0.0.1 --port "$(PORT)" --backend-store-uri "$$store"

latents: $(STAMP) ## encode the images in the folder SOURCE by the AUTOENCODER (folder or hub name) into the dataset NAME
	@test -n "$(SOURCE)" -a -n "$(AUTOENCODER)" -a -n "$(NAME)" || { echo "error: of what, by what, called what? SOURCE=FOLDER AUTOENCODER=FOLDER_OR_HUB_NAME NAME=NEW_NAME" >&2; exit 1; }
	@$(PY) harness.data.latents "$(SOURCE)" --autoencoder "$(AUTOENCODER)" --name "$(NAME)" --folder "$(DATA)" $(if $(SIDE),--side "$(SIDE)") \
	  $(if $(filter no off,$(FLIP)),--no-flip)

test: $(STAMP) ## all tests
	@$(MAKE) data || true # without the data its tests are skipped, and say so
	@$(PY) pytest

lint: $(STAMP) ## ruff, rules and format
	@$(PY) ruff check .
	@$(PY) ruff format --check .

bench: $(STAMP) ## figures of speed, beside what one would write without this project
	@$(MAKE) data || true # without the data most are skipped, and say so
	@OUT="$(OUT)" DATA="$(DATA)" $(VENV)/bin/python tests/benchmarks

data: $(FASHION) ## Fashion-MNIST, fetched, checked and decoded once
	@:

$(FASHION): | $(STAMP)
	@$(PY) harness.data fashion-mnist --folder "$(DATA)" >&2

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
	@{ $(PYTHON) -m venv $(VENV) && $(PY) pip install --no-compile -c constraints.txt -e '.[dev]'; } >$(LOG) 2>&1 || { \
	  grep -i error $(LOG) | tail -n 3 >&2; echo "error: installing failed; the whole log is in $(LOG)" >&2; exit 1; }
	@# Bytecode for all at once, on every core: it halves the start of each command and worker. Some files of some
	@# packages are templates that cannot compile.
	@$(PY) compileall -q -j 0 $(VENV)/lib >>$(LOG) 2>&1 || true
	@touch $@
