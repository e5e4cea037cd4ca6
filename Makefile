# Every target makes the environment that it needs, in .venv; nothing has to be activated.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

SPEC ?= corpus_specs/demo.yaml
RUNNER ?= local
ARGS ?=
corpus: OUT ?= build/corpus/$(basename $(notdir $(SPEC)))
CORPUS ?= build/corpus/demo
CONFIG ?= trainer/configs/demo.yaml
pretrain: OUT ?= build/runs/$(basename $(notdir $(CONFIG)))
RUN ?= build/runs/demo
# Of training: one per GPU, or per core, where small models gain more from processes than from threads.
PROCESSES ?= auto

# Bytecode is kept, out of the way: uv installs none, and without it each process compiles torch and Beam again, for 5 to
# 15 seconds. Container images often set the variable that forbids it.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/bytecode

PYTHON ?= python3
PY := .venv/bin/python
UV := .venv/bin/uv
INSTALL := $(UV) pip install --quiet --python $(PY)
TESTS ?= tests
# One process more than there are cores: many tests wait for something.
PYTEST = $(PY) -m pytest -n $(shell expr $$(nproc --all 2>/dev/null || getconf _NPROCESSORS_ONLN) + 1)

.PHONY: help cluster-parts cluster-test corpus plan pretrain tune card audit browse serve mixture diff trace takedown real-site test test-fast test-nightly oldest-torch check lint types format goldens fuzz torture bench docs schema lock clean

help: ## show every target
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "%-13s %s\n", $$1, $$2}'

.venv/.base:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; name it with PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	touch $@

.venv/.crawl: .venv/.base requirements/crawl.lock pyproject.toml
	$(INSTALL) --require-hashes -r requirements/crawl.lock
	$(INSTALL) --no-deps --editable .
	touch $@

.venv/.dev: .venv/.base requirements/dev.lock pyproject.toml
	$(INSTALL) --require-hashes -r requirements/dev.lock
	$(INSTALL) --no-deps --editable .
	touch $@ .venv/.crawl

corpus: .venv/.crawl ## build a corpus: SPEC=corpus_specs/demo.yaml OUT=build/corpus/<name> RUNNER=local WORKERS=n ARGS="..."
	$(PY) -m pipelines corpus --spec $(SPEC) --out $(OUT) --runner $(RUNNER) $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

plan: .venv/.crawl ## tell what a build takes before anything is fetched: SPEC=corpus_specs/... ARGS="--machines N --json F"
	$(PY) -m pipelines plan --spec $(SPEC) $(ARGS)

pretrain: .venv/.dev ## train encoder, model and decoder: CORPUS=build/corpus/demo CONFIG=trainer/configs/demo.yaml OUT=build/runs/<name> PROCESSES=auto ARGS="..."
	@[[ $(CORPUS) != build/corpus/demo || -e $(CORPUS)/manifest.json ]] || $(MAKE) corpus SPEC=corpus_specs/demo.yaml OUT=$(CORPUS) ARGS=
	@[[ -n "$$(find $(CORPUS)/tokens -name tokens.json -newer $(CORPUS)/manifest.json 2>/dev/null)" ]] || \
		$(PY) -m pipelines tokenize --corpus $(CORPUS) --train-bpe 1000 $(if $(WORKERS),--workers $(WORKERS))
	$(PY) -m trainer all --config $(CONFIG) --corpus $(CORPUS) --out $(OUT) --processes $(PROCESSES) $(ARGS)
	$(PY) -m trainer evaluate --config $(CONFIG) --corpus $(CORPUS) --out $(OUT) $(ARGS)

# The tokens are the model's own: its folder holds its tokenizer.
tune: CHAT = $(if $(filter-out file,$(origin CORPUS)),$(CORPUS),build/corpus/demo_chat)
tune: TUNING = $(if $(filter-out file,$(origin CONFIG)),$(CONFIG),trainer/configs/demo_chat.yaml)
tune: .venv/.dev ## tune a model on conversations and evaluate its answers: CORPUS=build/corpus/demo_chat CONFIG=trainer/configs/demo_chat.yaml RUN=build/runs/demo ARGS="..."
	@[[ $(RUN) != build/runs/demo || -e $(RUN)/model/config.json ]] || $(MAKE) pretrain CORPUS=build/corpus/demo CONFIG=trainer/configs/demo.yaml OUT=$(RUN) ARGS=
	@[[ $(CHAT) != build/corpus/demo_chat || -e $(CHAT)/manifest.json ]] || $(MAKE) corpus SPEC=corpus_specs/demo_chat.yaml OUT=$(CHAT) ARGS=
	@[[ -n "$$(find $(CHAT)/tokens -name tokens.json -newer $(CHAT)/manifest.json 2>/dev/null)" ]] || \
		$(PY) -m pipelines tokenize --corpus $(CHAT) --tokenizer $(RUN)/model $(if $(WORKERS),--workers $(WORKERS))
	$(PY) -m trainer tune --config $(TUNING) --corpus $(CHAT) --out $(RUN) --processes $(PROCESSES) $(ARGS)
	$(PY) -m trainer evaluate --config $(TUNING) --corpus $(CHAT) --out $(RUN)/tune $(ARGS)

card: .venv/.crawl ## a corpus's data card in all forms: CORPUS=build/corpus/demo ARGS="--release --against OLD"
	$(PY) -m tools card --corpus $(CORPUS) $(ARGS)

audit: .venv/.crawl ## hold a corpus against what it says of itself: CORPUS=build/corpus/demo ARGS="--against OLD --sample N"
	$(PY) -m tools audit --corpus $(CORPUS) $(ARGS)

browse: .venv/.crawl ## show a corpus in the browser: CORPUS=build/corpus/demo RUN=<a run of it> ARGS="--port N" or "--static DIR"
	$(PY) -m tools browse --corpus $(CORPUS) $(if $(filter-out file,$(origin RUN)),--run $(RUN)) $(ARGS)

serve: .venv/.dev ## a run's model behind HTTP (OpenAI's API) and on a page: RUN=build/runs/demo ARGS="--port N"
	$(PY) -m tools serve --run $(RUN) $(ARGS)

mixture: .venv/.dev ## sizes of sources, weights and what they do: CORPUS=build/corpus/demo ARGS="sizes", "solve --budget 1M", ...
	@$(if $(ARGS),true,echo 'make mixture: ARGS="sizes", "solve ...", "simulate ...", "probe ..." or "suggest ..."' >&2; exit 2)
	$(PY) -m tools mixture $(firstword $(ARGS)) --corpus $(CORPUS) $(wordlist 2,$(words $(ARGS)),$(ARGS))

diff: .venv/.crawl ## compare two corpora: OLD=build/corpus/a NEW=build/corpus/b ARGS="--json F"
	@$(if $(and $(OLD),$(NEW)),true,echo 'make diff: OLD=build/corpus/a NEW=build/corpus/b' >&2; exit 2)
	$(PY) -m tools diff $(OLD) $(NEW) $(ARGS)

trace: .venv/.crawl ## what a run trained on: CORPUS=build/corpus/demo RUN=build/runs/demo ARGS="--step N" or --key, --url, --domain
	$(PY) -m tools trace --corpus $(CORPUS) --run $(RUN) $(ARGS)

takedown: .venv/.crawl ## take samples out for good: CORPUS=build/corpus/demo ARGS="--url U --reason R" or --key, --domain, --file; --dry-run
	$(PY) -m tools takedown --corpus $(CORPUS) $(ARGS)

real-site: build/real-site/gimp-help-en/.done ## fetch and unpack the GIMP manual's pages, once (needs apt-get)

build/real-site/gimp-help-en/.done:
	@{ command -v apt-get && command -v dpkg-deb; } >/dev/null || { echo "make real-site: needs apt-get (Debian, Ubuntu)" >&2; exit 2; }
	rm -rf build/real-site/gimp-help-en build/real-site/package
	mkdir -p build/real-site/package
	cd build/real-site/package && { apt-get -q download gimp-help-en || { apt-get -q update && apt-get -q download gimp-help-en; }; }
	dpkg-deb -x build/real-site/package/gimp-help-en_*.deb build/real-site/package/tree
	mv build/real-site/package/tree/usr/share/gimp/*/help build/real-site/gimp-help-en
	rm -rf build/real-site/package
	touch $@

test: .venv/.dev ## run the tests: TESTS=tests/... ARGS="..."
	$(PYTEST) -m "not nightly and not cluster" $(TESTS) $(ARGS)

test-nightly: .venv/.dev ## run the tests that `make test` leaves out: further combinations of what it tries
	$(PYTEST) -m nightly $(TESTS) $(ARGS)

cluster-parts: .venv/.dev ## fetch Flink, Prism and an S3 server into build/cluster (needs go, mvn, java)
	$(PY) -m tools cluster-parts --into build/cluster

cluster-test: cluster-parts ## build on Flink and S3, each on a host of its own, and kill some of them, in half an hour: SUDO=sudo
	$(SUDO) $(PY) -m pytest -m cluster -p no:xdist -o addopts="--import-mode=importlib -ra" -s tests/cluster $(ARGS)

test-fast: .venv/.dev ## run the tests that are not marked slow: TESTS=tests/... ARGS="..."
	$(PY) -m pytest -n logical -m "not slow and not nightly and not cluster" $(TESTS) $(ARGS)

# Only the two libraries are old: the others are the newest that go with them.
oldest-torch: .venv/.base ## run the model's tests with the oldest torch that pyproject.toml allows
	$(UV) venv --quiet --allow-existing --python $(PY) .venv/oldest-torch
	$(UV) pip install --quiet --python .venv/oldest-torch/bin/python -r pyproject.toml --extra train hypothesis pytest pytest-timeout pytest-xdist \
		$(foreach name,torch torchvision,"$(name)==$$(sed -nE 's/^ *"$(name)>=([0-9.]+).*/\1/p' pyproject.toml | head -1).*")
	.venv/oldest-torch/bin/python -c "import trainer.loop, trainer.evaluation.evaluate, trainer.tasks.table, model.__main__"
	.venv/oldest-torch/bin/python -m pytest -n logical tests/model $(ARGS)

check: lint types test ## format, lint, types and tests

lint: .venv/.dev ## check format and lint
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

types: .venv/.dev ## check types
	$(PY) -m mypy

format: .venv/.dev ## rewrite in the project's format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

goldens: .venv/.dev ## write what stages give on fixed inputs, once their VERSIONs are raised
	$(PY) -m tests.goldens

fuzz: .venv/.dev ## fuzz every parser for longer: TESTS=tests/fuzz/test_web.py ARGS="--fuzz-examples 50000 --seed 7"
	$(PYTEST) --hypothesis-profile=fuzz $(if $(filter-out file,$(origin TESTS)),$(TESTS),tests/fuzz) $(ARGS)

torture: .venv/.dev ## kill builds at random, a hundred times over all stages, and compare bytes
	DROMAIUS_KILLS=100 $(PY) -m pytest tests/test_kill_and_resume.py -s $(ARGS)

bench: .venv/.dev ## run the benchmarks against their peers
	$(PY) -m tools.bench $(ARGS)

docs: .venv/.dev ## build the documentation into build/docs; broken links fail
	$(PY) -m sphinx -E -q -W --keep-going -n -b html -d build/docs/.doctrees docs build/docs

schema: .venv/.crawl ## write the JSON Schema by which editors complete a spec
	$(PY) -m pipelines schema > corpus_specs/spec.schema.json

lock: .venv/.base ## resolve the dependencies anew into the hashed locks
	$(UV) pip compile pyproject.toml --extra dev $(LOCK_OPTIONS) --upgrade -o requirements/dev.lock
	$(UV) pip compile pyproject.toml --extra crawl $(LOCK_OPTIONS) -c requirements/dev.lock -o requirements/crawl.lock

LOCK_OPTIONS := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

clean: ## remove what was built, but not the environment
	rm -rf build
