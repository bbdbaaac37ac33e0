# One Makefile for everything.  `make help` lists the targets.

VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
# The whole run is bounded: pytest stops after this many seconds and says which test was running.
TEST_SECONDS ?= 2280
# Files of tests run side by side: most of them wait for something most of the time.
TEST_WORKERS ?= 2
# Flags of `make run`, `test`, `bench`, `load`, `failures`, `soak`, `chaos` and `simulate`: make run ARGS='--volume disk0=10G'
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install compiled run test lint format bench load failures soak chaos simulate docs reference sbom audit protos debian-packages lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(STAMP) ## Make .venv and install lunmesh with its pinned dependencies

$(STAMP): pyproject.toml constraints.txt tools/make-venv.sh
	@test -x $(BIN)/python -a -x $(BIN)/pip || tools/make-venv.sh $(VENV)
	@# setuptools first, so that the build needs no second, unpinned download.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		--no-build-isolation --editable '.[dev,docs]'
	@touch $@

# The hot path as a C extension, from the same source (setup.py): make run COMPILED=1.
COMPILED_DIR := build/compiled
ifdef COMPILED
run: compiled
run: export PYTHONPATH := $(CURDIR)/$(COMPILED_DIR)
endif

compiled: $(COMPILED_DIR)/.built ## Compile the hot path with mypyc; needs a C compiler and Python's headers

$(COMPILED_DIR)/.built: setup.py $(shell find target workers proto -name '*.py' -o -name '*.lua') | $(STAMP)
	@rm -rf $(COMPILED_DIR)
	LUNMESH_COMPILED=1 $(BIN)/python setup.py --quiet build --build-base build/mypyc --build-lib $(COMPILED_DIR)
	@touch $@

run: install ## Serve a disk: make run ARGS='--volume disk0=10G'
	@exec $(BIN)/lunmesh serve $(ARGS)

test: install debian-packages lint ## Install, lint and run every test
	@exec $(BIN)/python -m pytest --numprocesses=$(TEST_WORKERS) --dist=loadgroup \
		--session-timeout=$(TEST_SECONDS) --durations=30 $(ARGS)

lint: install ## Style, types and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: install ## Put the code in its house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install debian-packages ## Measure, beside tgtd where it is installed
	@exec $(BIN)/python -m tests.bench $(ARGS)

load: install debian-packages ## Run deploy/fio's jobs, nothing mounted: build/load/report.html
	@exec $(BIN)/python -m tests.load $(ARGS)

failures: install debian-packages ## How long initiators wait when a part dies: make failures ARGS='--rounds 1'
	@exec $(BIN)/python -m tests.failures $(ARGS)

chaos: install ## Kill, stop and cut off nodes, workers and Redis under verified writes: make chaos ARGS='--nodes 3 --seed 1'
	@exec $(BIN)/python -m tests.chaos $(ARGS)

soak: install debian-packages ## Everything on, harm done to it: does anything grow? make soak ARGS='--minutes 30'
	@exec $(BIN)/python -m tests.soak $(ARGS)

simulate: install debian-packages ## What tracking costs at scale: make simulate ARGS='--short'
	@exec $(BIN)/python -m tests.simulation $(ARGS)

docs: install ## The documentation as a site: build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo build/site/index.html

reference: install ## Generate docs/reference/ from the code
	$(BIN)/python -m tools.reference

sbom: install ## What an installed lunmesh consists of: build/sbom.json (CycloneDX)
	@$(BIN)/python -m tools.sbom

audit: ## Known vulnerabilities of what constraints.txt pins, where the network lets it ask
	@tools/audit.sh

protos: install ## Generate the gRPC stubs from proto/
	tools/protos.sh

debian-packages:
	@tests/debian-packages.sh

lock: ## Pin the newest versions that pyproject.toml allows in constraints.txt
	tools/lock.sh

clean: ## Remove the virtual environment, caches and build output (never data)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
