# The front door of Lipstream. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
export ORT_DISABLE_TELEMETRY := 1

# The first of these that exists makes the virtual environment; override with `make PYTHON=…`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do if $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then echo $$p; break; fi; done)
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt

AVATARS ?= avatars
OUT ?= out
AUDIO ?= export/demo/speech/hello.flac
ONNXRUNTIME ?= cpu
PERF = $(PY) -m perf
PERF_RUN = --avatars $(AVATARS) --out $(OUT)/perf $(if $(filter gpu,$(ONNXRUNTIME)),--gpu)
KERNEL := compositor_backend/native/libpaste.so
INPUTS := pyproject.toml constraints.txt

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(PY):
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.10, 3.11 or 3.12 is needed and none was found" >&2; exit 1; fi
	$(PYTHON) -m venv $(VENV)

# onnxruntime and onnxruntime-gpu own the same folder: whichever is wanted, the other goes.
$(VENV)/.serving-$(ONNXRUNTIME): $(PY) $(INPUTS) | $(KERNEL)
	@echo "Installing what serving needs into $(VENV) …"
	@if [ $(ONNXRUNTIME) = gpu ]; then $(PY) -m pip uninstall --quiet --quiet --yes onnxruntime; fi
	@if [ $(ONNXRUNTIME) = cpu ]; then $(PY) -m pip uninstall --quiet --quiet --yes onnxruntime-gpu; fi
	@$(PIP) --editable '.[server,client,demo,onnxruntime-$(ONNXRUNTIME)]'
	@docker/install-pillow.sh $(PY)
	@rm -f $(VENV)/.serving-*
	@touch $@

$(VENV)/.export: $(VENV)/.serving-$(ONNXRUNTIME)
	@echo "Installing what exporting needs (torch among it) into $(VENV) …"
	@$(PIP) --editable '.[export]'
	@touch $@

$(VENV)/.perf: $(VENV)/.serving-$(ONNXRUNTIME)
	@echo "Installing what measuring needs into $(VENV) …"
	@$(PIP) --editable '.[perf]'
	@touch $@

# Without its dependencies: they include Pillow and another OpenCV, which own folders of ours, and none is needed.
$(VENV)/.prepare: $(VENV)/.export
	@echo "Installing what finding faces needs into $(VENV) …"
	@$(PIP) --editable '.[prepare]'
	@$(PIP) --no-deps mediapipe
	@touch $@

$(VENV)/.test: $(VENV)/.prepare
	@echo "Installing what tests, measuring and training need into $(VENV) …"
	@$(PIP) --editable '.[train,test,perf]'
	@touch $@

# Pasting compiled for this machine, where there is a compiler; without one, Pillow pastes.
$(KERNEL): compositor_backend/native/paste.c compositor_backend/native/build.sh
	@compositor_backend/native/build.sh

install: $(VENV)/.serving-$(ONNXRUNTIME) ## Make .venv and install what serving needs (ONNXRUNTIME=gpu for a GPU)

install-all: $(VENV)/.test ## The same, and what exporting, training and testing need

install-prepare: $(VENV)/.prepare ## The same, and what exporting, and finding faces in a video, need

avatar: install ## Build the demo avatar into avatars/
	@$(PY) -m export demo-avatar --avatars $(AVATARS)

demo: avatar ## Say a sentence: out/demo/demo.mp4, out/demo/frames/, out/demo/report.json
	@mkdir -p $(OUT)/demo
	@$(PY) -m server --avatars $(AVATARS) --grpc-port 0 --http-port 0 --metrics-port 0 --health-port 0 \
	  --log $(OUT)/demo/triton.log -- \
	  $(PY) -m client speak --avatar demo --audio $(AUDIO) --out $(OUT)/demo/frames \
	  --first-chunk 5 --mp4 $(OUT)/demo/demo.mp4 --report $(OUT)/demo/report.json

serve: avatar ## Serve the demo avatar until Ctrl-C
	@$(PY) -m server --avatars $(AVATARS) --hints

contact-sheet: $(VENV)/.serving-$(ONNXRUNTIME) ## Draw the README's picture from the last demo run
	@$(PY) -m export contact-sheet --frames $(OUT)/demo/frames --audio $(AUDIO) --out docs/contact-sheet.png

lint: $(VENV)/.test ## ruff (lint and format) and mypy --strict
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

# Two processes on two cores: with more threads in each, torch's wait for one another and take three times as long.
test: $(VENV)/.test lint ## Everything: lint, types, unit tests, functional tests on a real Triton
	@OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

unit: $(VENV)/.test ## The tests that need no Triton
	@$(PY) -m pytest -m 'not functional'

# LIPSTREAM_PATIENCE: how many times longer than promised a fault may be felt; here nothing else is to run.
faults: $(VENV)/.test ## Fault-injection tests against a live server
	@LIPSTREAM_PATIENCE=1 $(PY) -m pytest tests/functional/faults tests/functional/chain/test_damaged_avatar.py -m functional --log-cli-level=INFO

perf-quick: $(VENV)/.perf avatar ## Measure the main figures in a minute: out/perf/report.md
	@$(PERF) run --quick $(PERF_RUN)

perf: $(VENV)/.perf avatar ## Measure everything in most of an hour: out/perf/report.md
	@$(PERF) run $(PERF_RUN)

perf-analyzer: $(VENV)/.perf avatar ## Measure with Triton's own perf_analyzer: out/perf/report.md, out/perf/analyzer/
	@$(PERF) run --only analyzer $(PERF_RUN)

perf-targets: $(VENV)/.perf ## A line for each target and what the last report says of it
	@$(PERF) targets $(OUT)/perf/report.json

train: $(VENV)/.test ## Train the demo's networks again (two hours on 2 CPU cores)
	@$(PY) -m export demo-train

evaluate: $(VENV)/.test ## Measure the demo's lip-sync on voices and sentences it was not trained on
	@$(PY) -m export demo-eval

export: $(VENV)/.export ## Export a checkpoint: make export ARGS='unet --checkpoint P --family 328 --audio ave --out F.onnx'
	@$(PY) -m export $(ARGS)

docker-build: ## Build the GPU image (needs a Docker engine)
	docker compose --file docker/compose.yaml build

docker-up: avatar ## Serve model_repository/ and avatars/ from the GPU image
	docker compose --file docker/compose.yaml up

clean: ## Remove avatars/ and out/, keep .venv
	rm -rf $(AVATARS) $(OUT)

.PHONY: help install install-all install-prepare avatar demo serve contact-sheet lint test unit faults perf-quick perf perf-analyzer perf-targets train evaluate export docker-build docker-up clean
