# make setup | demo | up | test | lint | lock | clean
#
# Everything is installed into .venv. `make setup PYTHON=python3.12` takes another interpreter than python3.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

# The stages run as `python -m ganlib ...`: that python is the one of .venv.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: setup demo up test lint lock clean
.DEFAULT_GOAL := setup

setup: $(INSTALLED)

# Again only when what is to be installed has changed.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); 3.11 or newer is needed: make setup PYTHON=python3.12" >&2; exit 2; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

# DVC keeps its records beside git's. Where the sources came as an archive, without git, it is told to go without.
demo: $(INSTALLED)
	@test -e .git || dvc config --local core.no_scm true
	python -m flows.pipeline --jobs 2
	@echo "  (first: . $(VENV)/bin/activate)"

# Prefect's server, a worker and the image server, until Ctrl-C: docs/deployment.md. Options: make up UP="--port 8001"
up: $(INSTALLED)
	@python -m flows.up $(UP)

test: lint
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

lint: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy
	lint-imports

# The newest versions that pyproject.toml allows, in an environment of their own, written down. torch is named: a newer
# one has to be tried on its own, since checkpoints, exports and figures hang on it.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --editable '.[pipeline,serve,sign,dask,s3,dev]' torch==2.13.0
	{ sed '/^#/!d' requirements.lock; build/lock/bin/python -m pip freeze --exclude-editable | \
	    sed -E -e 's/^(torch==[0-9.]+)\+.*/\1/' -e '/^(nvidia-|cuda-|triton==)/d' \
	        -e 's/^onnxruntime-gpu==(.*)/onnxruntime-gpu==\1 ; (sys_platform == "linux" or sys_platform == "win32") and (platform_machine == "x86_64" or platform_machine == "AMD64")\nonnxruntime==\1 ; sys_platform == "darwin" or platform_machine == "aarch64" or platform_machine == "ARM64"/'; \
	} > build/requirements.lock
	mv build/requirements.lock requirements.lock

clean:
	rm -rf build dist *.egg-info dvc_plots .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
