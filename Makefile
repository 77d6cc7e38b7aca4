# One command each; everything runs in .venv, which is made when it is missing or its lock has changed.
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
# Where `omniglot` finds its zip files: MIRROR=DIR, METASHOT_MIRROR, a copy beside the repository, or the network
MIRROR ?= $(or $(METASHOT_MIRROR),$(wildcard ../shared/data/omniglot))
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help run omniglot paper test drills mutants lint ui bench peers baselines clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	    { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1): metashot needs Python 3.11 to 3.13; make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@test -x .venv/bin/uv || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
	uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

# What DVC takes from its cache or remote registers nothing in MLflow; `publish` does, and adds nothing twice
run: .venv/installed ## the whole pipeline of params.yaml (default: all methods on embedded data), then the comparison
	@python -m metashot.project.dvc repro && metashot publish; status=$$?; metashot compare && exit $$status

omniglot: .venv/installed ## the same on Omniglot; MIRROR=DIR reads its two zip files from a folder instead of the network
	METASHOT_MIRROR="$(MIRROR)" metashot run --data omniglot

paper: .venv/installed ## Omniglot trained for as long as it takes to stand beside the papers: docs/performance.md says how long
	METASHOT_MIRROR="$(MIRROR)" metashot run --data omniglot_paper --setting paper_5w1s

test: lint ## lint, then the tests
	pytest

drills: .venv/installed ## the slow tests: processes killed, disks full, servers and workers lost, a week of schedule
	pytest -m slow

# FAULTS=0 plants all of them, SEED draws others, ROOM=learning tests one package alone
mutants: .venv/installed ## how many small faults, planted in learning and results, the unit tests notice: two hours
	python -m benchmarks.mutants --faults $(or $(FAULTS),150) --seed $(or $(SEED),0) $(ROOM)

lint: .venv/installed ## ruff, mypy and the rules of who imports whom
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo

ui: .venv/installed ## the MLflow UI on loopback
	metashot ui

bench: .venv/installed ## speed, as ratios against named alternatives
	python -m benchmarks.speed

# What cannot be installed as published is built from its source, whose generated C is of an older Python
.venv-peers/installed: requirements.lock benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	uv pip install --quiet --python .venv-peers/bin/python --require-hashes -r requirements.lock
	uv pip install --quiet --python .venv-peers/bin/python --no-deps -r benchmarks/peers.txt
	rm -rf .venv-peers/source && .venv-peers/bin/python -m pip download --quiet --no-deps --no-binary :all: \
	    --no-build-isolation --dest .venv-peers/source learn2learn==0.2.0
	cd .venv-peers/source && tar xzf learn2learn-0.2.0.tar.gz && cd learn2learn-0.2.0 && \
	    ../../bin/cython -3 learn2learn/data/*.pyx && \
	    uv pip install --quiet --python ../../bin/python --no-deps --no-build-isolation .
	@touch $@

peers: .venv/installed .venv-peers/installed ## speed, against other few-shot libraries in an environment of their own
	.venv-peers/bin/python -m benchmarks.peers

.venv-baselines/installed: .venv/installed benchmarks/baselines.txt
	uv venv --quiet --clear --python .venv/bin/python .venv-baselines
	uv pip install --quiet --python .venv-baselines/bin/python --no-deps -r benchmarks/baselines.txt
	@touch $@

# ONLY=glyphs-5w1s takes one data set and setting alone
baselines: .venv-baselines/installed ## what scikit-learn reaches on the same test episodes, and the champion's lead
	.venv-baselines/bin/python -m benchmarks.baselines $(ONLY)

clean: ## remove what the pipeline made and checkpoints; the DVC cache, MLflow's records and .venv stay
	rm -rf data/code data/raw data/processed data/episodes data/params.ok models results records reports .metashot
