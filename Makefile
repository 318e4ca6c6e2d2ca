# make demo: a search on the bundled digits.  make test: lint, types and tests.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: demo test lint types slow clean

demo: .venv/.installed
	$(BIN)/nas search --data digits --trials 60 --supernet-steps 1000 --rank-networks 8 --finalists 12 --final-epochs 4 --out $(DEMO)

# Two at a time, each file as a whole: what it sets up serves all of its tests.
test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.dev
	$(BIN)/mypy

slow: .venv/.dev
	$(BIN)/python -m pytest -m slow

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv $(DEMO)
