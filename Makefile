# `make help` lists the targets; everything is installed into .venv in this folder.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve test test-quick test-images test-clients faults verify check docs demo-checkpoint clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

serve: $(VENV)/.serve  ## install what is needed, start Triton and the shim, print a curl
	@exec $(VENV)/bin/python -m standalone

test: $(VENV)/.test  ## the whole test suite, against a real Triton with a tiny checkpoint
	$(VENV)/bin/python -m tests.kit.tools
	$(VENV)/bin/python -m pytest

test-quick: $(VENV)/.test  ## all tests that start no server: under two minutes
	@$(MAKE) --no-print-directory -j4 --output-sync quick-pictures quick-model quick-servers quick-others

# More than there are cores: many of them wait, for a time-out or a process.
QUICK_PICTURES := tests/model/pictures tests/model/families tests/model/loading
QUICK_SERVERS := tests/shim tests/standalone
QUICK := $(addprefix quick-,pictures model servers others)
.PHONY: $(QUICK)
$(QUICK): export QUICK := 1
quick-pictures:
	$(VENV)/bin/python -m pytest -r fE $(QUICK_PICTURES)
quick-model:
	$(VENV)/bin/python -m pytest -r fE tests/model $(QUICK_PICTURES:%=--ignore=%)
quick-servers:
	$(VENV)/bin/python -m pytest -r fE $(QUICK_SERVERS)
quick-others:
	$(VENV)/bin/python -m pytest -r fE --ignore=tests/model $(QUICK_SERVERS:%=--ignore=%)

faults: $(VENV)/.test  ## the fault tests at full length, and kills and overload under load: half an hour
	FAULTS=full $(VENV)/bin/python -m pytest -m faults -s
	for scenario in kills balancer overload; do $(VENV)/bin/python -m benchmarks.load $$scenario || exit 1; done

test-images: $(VENV)/.test  ## build both images over stand-in bases and send an edit through them: as root, minutes, 25 GB
	$(VENV)/bin/python -m tests.kit.tools images
	$(VENV)/bin/python -m pytest -s tests/images/both_images.py

test-clients: $(VENV)/.test  ## run applications against the server and record what they send: minutes, 4 GB
	$(VENV)/bin/python -m tests.kit.tools clients
	CI=1 $(VENV)/bin/python -m pytest tests/clients/real/*_client.py

bench-engine:  ## the engine against stock diffusers: make bench-engine ARGS="--checkpoint medium --sizes 64"
bench-load:  ## load and faults on a whole server: make bench-load ARGS=kills
bench-elastic:  ## servers that come and go behind the chart's HAProxy: make bench-elastic ARGS=scaling (5 minutes)
bench-gpu:  ## every option on a GPU: make bench-gpu ARGS="--out gpu.json"
bench-tokens:  ## tokens that the transformer works on for a step, and forwards: rows end to end against padded ones
bench-vae:  ## pictures against films of one frame, in CPU seconds
bench-sizes:  ## random sizes and shapes through the demo: exact, in place, and at what price
bench-step_cache:  ## what the step cache does to a picture, beside fewer steps
bench-replicas:  ## rows of a step on each of two transformers, counted, on the CPU
bench-prefixes:  ## Qwen-Image-2.1 for eight clients, counted, against diffusers with its own cache
BENCHMARKS := $(addprefix bench-,engine load elastic late gpu vae tokens prefixes replicas arrivals segments sse_clients step_cache sizes)
.PHONY: $(BENCHMARKS)
# Not torch.set_num_threads, which holds for the calling thread only: the engine has its own.
$(BENCHMARKS): export OMP_NUM_THREADS ?= 1
$(BENCHMARKS): export PYTHONPATH := model_repository/qwen_image_edit/1
$(BENCHMARKS): bench-%: $(VENV)/.test
	$(VENV)/bin/python -m benchmarks.$* $(ARGS)

verify: $(VENV)/.test  ## hold a checkpoint, with your settings and GPU, against diffusers: make verify CHECKPOINT=/models/…
	PYTHONPATH=model_repository/qwen_image_edit/1 $(VENV)/bin/python -m benchmarks.verify $(CHECKPOINT) $(ARGS)

check: $(VENV)/.test  ## ruff and mypy over everything that is Python, tsc over the page's scripts, the generated documents
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy .
	$(VENV)/bin/python -m tests.kit.page_types
	$(VENV)/bin/python -m docs.generate --check

docs: $(VENV)/.serve  ## write .env.example and the tables of docs/ from the code
	$(VENV)/bin/python -m docs.generate

demo-checkpoint: $(VENV)/.demo  ## retrain the demo checkpoint: up to 90 minutes on two cores
	PYTHONPATH=model_repository/qwen_image_edit/1 $(VENV)/bin/python -m checkpoints.demo

clean:  ## remove everything that make installed or wrote
	rm -rf $(VENV) .triton .tools *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v[:2] in ((3, 11), (3, 12)) else f"Python 3.11 or 3.12 is needed, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.serve: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (PyTorch is large: a few minutes on a fresh machine)"
	$(PIP) -e '.[shim,model,standalone]'
	@touch $@

$(VENV)/.test: $(VENV)/.serve pyproject.toml constraints.txt
	$(PIP) -e '.[shim,model,standalone,checkpoints,test,dev]'
	@touch $@

$(VENV)/.demo: $(VENV)/.serve pyproject.toml constraints.txt
	$(PIP) -e '.[shim,model,standalone,checkpoints]'
	@touch $@
