# The two commands: `make demo` and `make test`. Both install into .venv first.
PYTHON ?= python3
PY := .venv/bin/python
DEPTRY := .venv/bin/deptry --no-ansi
SAMPLE := docs/sample/tcga-a2-a0d2.tif

.PHONY: demo test lint docs test-long bench clean

demo: .venv/scoring
	@echo "Scoring $(SAMPLE) ..."
	.venv/bin/wsi score $(SAMPLE) --out demo/results
	@echo
	@echo "Open this page:           demo/results/tcga-a2-a0d2/report.html"
	@echo "The slide under its map:  demo/results/tcga-a2-a0d2/overlay.png (overlay.tif at full size)"
	@echo "The map itself:           demo/results/tcga-a2-a0d2/cellularity.ome.tiff"
	@echo "The figures:              demo/results/tcga-a2-a0d2/summary.json"

test: .venv/installed lint
	$(PY) -m pytest -m "not long and not gpu" --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(DEPTRY) wsi_pipeline flows training
	$(DEPTRY) wsi_pipeline --ignore DEP002 --optional-dependencies-dev-groups flows,training,dev
	$(DEPTRY) flows --ignore DEP002 --optional-dependencies-dev-groups training,dev
	$(DEPTRY) training --ignore DEP002 --optional-dependencies-dev-groups flows,dev
	$(DEPTRY) tests --exclude '^$$' --ignore DEP002,DEP004
	$(DEPTRY) tools --ignore DEP002,DEP004
	$(PY) -m tools.licences

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

# Minutes each; some download from PyPI or need Java.
test-long: .venv/installed
	$(PY) -m pytest -m "long or gpu"

bench: .venv/installed
	$(PY) -m tests.benchmarks.tiling
	$(PY) -m tests.benchmarks.engines
	$(PY) -m tests.benchmarks.overlap
	$(PY) -m tests.benchmarks.night
	$(PY) -m tests.benchmarks.codec
	$(PY) -m tests.benchmarks.memory

# What scoring on a CPU needs; torch is none of it.
.venv/scoring: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing what scoring needs into .venv: about 1 GB, a minute or so ..."
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[openvino]"
	touch $@

.venv/installed: .venv/scoring
	@echo "Installing torch, Prefect and what the tests need into .venv: 8 GB more, some minutes ..."
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv demo build *.egg-info
