# Two commands do everything: `make sweep` runs the main job, `make test` passes the tests. Both install first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install sweep test test-fast gpu-day lint clean

help:
	@echo "make sweep      install, then run recipes/scaling.yaml (RECIPE=..., ARGS='train.epochs=2')"
	@echo "make test       install, then run all tests (make test-fast: the fast tier)"
	@echo "make gpu-day    measure on a GPU what is not measured yet, in at most ten minutes; resumes (MINUTES=9)"
	@echo "make lint       ruff, mypy and the import contract"
	@echo "make install    only create $(VENV) and install into it"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $(STAMP)
	@echo "installed"

RECIPE ?= recipes/scaling.yaml
PARALLEL ?= -n 3 --dist loadfile --no-loadscope-reorder
sweep: install
	$(BIN)/python -m harness.sweep $(RECIPE) $(ARGS)

test: install
	$(BIN)/python -m pytest $(PARALLEL) --durations=15 $(ARGS)

test-fast: install
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

MINUTES ?= 9
gpu-day: install
	$(BIN)/python -m benchmarks.gpu_day --minutes $(MINUTES) $(ARGS)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
