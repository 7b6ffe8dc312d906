# ckptbench: `make` lists the targets. Every target first makes .venv when it is missing.

SUITE ?= demo
FROM ?=
PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help leaderboard features truth scores report paper-toy test test-extras simulate bench lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  SUITE=NAME chooses the suite (demo), FROM=results rebuilds from committed tables, ARGS=... adds options"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

leaderboard: $(READY) ## run a suite to its leaderboards (SUITE=demo), or rebuild them with FROM=results
	$(BIN)/ckptbench $(if $(FROM),leaderboard $(SUITE) --from $(FROM),run $(SUITE)) $(ARGS)

features: $(READY) ## train the source run and cache the features of every checkpoint
	$(BIN)/ckptbench extract $(SUITE) $(ARGS)

truth: $(READY) ## compute FE and FT ground truth, with all that it needs
	$(BIN)/ckptbench truth $(SUITE) $(ARGS)

scores: $(READY) ## score every checkpoint with every selector, with all that it needs
	$(BIN)/ckptbench score $(SUITE) $(ARGS)

report: $(READY) ## write figures and the report page from the tables in a local run
	$(BIN)/ckptbench report $(SUITE) $(ARGS)

paper-toy: $(READY) ## the papers' toy experiment at its own size (a GPU, CIFAR-10 and MNIST): run, stop, go on
	$(BIN)/ckptbench run paper-toy $(ARGS)
	$(BIN)/ckptbench run paper-toy-full $(ARGS)

test: $(READY) ## run the tests, a process per core
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

test-extras: $(READY) ## install timm, transformers, open_clip, lightning and datasets, and rank what they write
	$(BIN)/python -m pip install --quiet --editable '.[timm,transformers,open-clip,lightning,datasets]'
	$(BIN)/python -m pytest tests/extras $(ARGS)

simulate: $(READY) ## how often what rank claims is so, on made-up features (ARGS=repeats)
	$(BIN)/python -m ckptbench.ranking.simulate $(ARGS)

bench: $(READY) ## measure speed, as ratios against the obvious way in the same run
	$(BIN)/python -m pytest tests/bench --benchmark-only -s $(ARGS)

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove the environment and the cache (results/ stays)
	rm -rf $(VENV) .ckptbench
