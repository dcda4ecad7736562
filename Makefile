# The menu. Needs make and a Python 3.11 to 3.13 with venv and pip, nothing else.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -q -c constraints.txt
# One core each: tests of processes and of torch would otherwise take each other's threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist worksteal
UNCHECKED := JAXTYPING_DISABLE=1 $(PYTEST)
ALL := not slow and not gpu
QUICK := $(ALL) and not long

define NEXT

The run is in runs/demo: best.safetensors (the model, with its classes and preprocessing), metrics.jsonl, config.json.
Try next:
  $(BIN)/vitrail report runs/demo                            can it be used? one page: runs/demo/report.html
  $(BIN)/vitrail predict runs/demo runs/demo/images --json
  $(BIN)/vitrail recipes
  $(BIN)/vitrail train cifar10-cpu --run runs/cifar10        five to ten minutes of training on two cores
endef
export NEXT

.PHONY: help demo setup fmt check test test-all slow bench docs
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

demo: .venv/core.stamp  ## train on handwritten digits, evaluate, predict; writes runs/demo anew
	rm -rf runs/demo && $(BIN)/vitrail train digits --run runs/demo && $(BIN)/vitrail eval runs/demo --data digits
	$(BIN)/python examples/demo_images.py runs/demo/images && $(BIN)/vitrail predict runs/demo runs/demo/images
	@echo "$$NEXT"

setup: .venv/dev.stamp  ## .venv with everything that development needs

fmt: setup  ## format, and mend what a linter can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

check: setup  ## format, lint, types, import ladder, sizes, forbidden calls
	$(BIN)/ruff format --check && $(BIN)/ruff check && $(BIN)/pyright -p .
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_names.py && $(BIN)/python scripts/check_sizes.py && $(BIN)/python scripts/check_calls.py

# Twice: under a type checker, and without it what the checker would stop.
test: setup  ## the quick tests: a few of each kind, in under four minutes on two cores
	$(PYTEST) -m "$(QUICK) and not unchecked"
	$(UNCHECKED) -m "$(QUICK) and unchecked"

test-all: setup  ## these and the long ones, as CI runs them: about twelve minutes
	$(PYTEST) -m "$(ALL) and not unchecked"
	$(UNCHECKED) -m "$(ALL) and unchecked"

slow: setup  ## what takes minutes, or a GPU
	$(BIN)/pytest -q -m "(slow or gpu) and not unchecked"
	JAXTYPING_DISABLE=1 $(BIN)/pytest -q -m "(slow or gpu) and unchecked"

bench: setup  ## side-by-side measurements; keep the machine quiet
	$(BIN)/python bench/reference_scratch.py

docs: setup  ## the architecture picture, the tutorial's notebook, and the API reference in site/
	$(BIN)/python scripts/draw_architecture.py && $(BIN)/python scripts/tutorial.py
	$(BIN)/python scripts/build_reference.py site

# torch comes first and pinned: an unconstrained torch can pull several GB of GPU libraries.
.venv/torch.stamp: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) torch && touch $@

.venv/core.stamp: .venv/torch.stamp pyproject.toml
	$(INSTALL) -e '.[train,serve]' && touch $@

.venv/dev.stamp: .venv/torch.stamp pyproject.toml
	$(INSTALL) -e '.[dev]' && touch $@
