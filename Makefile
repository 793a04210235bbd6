# Each target sets up what it needs, in virtual environments under .venv/.

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-lab test-all test-glance test-vsphere storm bench bench-glance servers-up servers-down docs lint clean

# The first that is new enough; the tests run on every supported one that the machine has.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& echo "$$python" && break; done)
ENVIRONMENT = $(if $(PYTHON),,$(error Python 3.10 or later is needed))$(PYTHON) -m tools.environments
# Swift, Keystone and Cinder have an environment of their own, which only they need.
OPENSTACK = $(if $(or $(if $(BACKENDS),,all),$(findstring swift,$(BACKENDS)),$(findstring cinder,$(BACKENDS)),$(findstring glance,$(BACKENDS))),$(ENVIRONMENT) openstack,:)
GLANCE_SERVER = $(if $(or $(if $(BACKENDS),,all),$(findstring glance,$(BACKENDS))),$(ENVIRONMENT) glance,:)
CONTROL = PYTHONPATH=tests/functional $(PYTHON) -m servers.control

# What the caller's shell is told about imports must not reach the tools, nor hide a wheel.
unexport PYTHONPATH PYTHONSAFEPATH

help: ## list the targets
	@sed -n 's/^\([a-z-]*\): ## \(.*\)/  make \1	\2/p' Makefile

demo: ## store a disk image, read it back, verify it, delete it (IMAGE=path for your own)
	@$(ENVIRONMENT) demo
	@.venv/demo/bin/python examples/demo.py

test: ## run every check on every supported interpreter of this machine
	@$(PYTHON) -m tools.run_tests

test-quick: ## lint, types, unit tests, and the contract without servers, on one interpreter
	@$(PYTHON) -m tools.run_tests --quick

test-lab: ## the servers' own tests, and note that these servers were tested
	@$(PYTHON) -m tools.run_tests --lab

test-all: ## every test on every setting, the servers' own and the heavy ones too: an hour or more
	@$(PYTHON) -m tools.run_tests --all

test-glance: ## Glance's own tests on imgstore-glance (GLANCE="unit functional" or "--record")
	@$(PYTHON) -m tools.glance $(GLANCE)

test-vsphere: ## run the contract on a vCenter Server or host (IMGSTORE_VSPHERE_…)
	@$(ENVIRONMENT) tests
	.venv/tests/bin/pytest --config-file pyproject.toml --rootdir . tests/real/vsphere.py

storm: ## many clients at one real server while everything fails (BACKEND=s3 SECONDS=60 SEED=…)
	@$(PYTHON) -c 'from tools.system_packages import provide; provide()'
	@$(ENVIRONMENT) tests
	@$(if $(filter swift% cinder,$(BACKEND)),$(ENVIRONMENT) openstack,:)
	@PYTHONPATH=tests PYTHONSAFEPATH=1 .venv/tests/bin/python -m storm \
		$(or $(BACKEND),file) $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

bench: ## measure side by side with glance_store (BACKENDS=file,… BENCH="more arguments")
	@$(ENVIRONMENT) bench
	@$(OPENSTACK)
	.venv/bench/bin/python benchmarks/run.py $(if $(BACKENDS),--backends $(BACKENDS)) $(BENCH)

bench-glance: ## measure a whole Glance on both libraries (BENCH="more arguments")
	@$(PYTHON) -c 'from tools.system_packages import provide; provide()'
	@$(ENVIRONMENT) glance
	.venv/glance/bin/python benchmarks/glance_api.py $(BENCH)
	.venv/glance/bin/python benchmarks/glance_cost.py

servers-up: ## start real servers and leave them running (BACKENDS=nginx,s3,rbd,swift,cinder,vsphere,glance)
	@$(PYTHON) -c 'from tools.system_packages import provide; provide()'
	@$(OPENSTACK)
	@$(GLANCE_SERVER)
	@$(CONTROL) up $(BACKENDS)

servers-down: ## stop them
	@$(CONTROL) down

docs: ## build the documentation into docs/_build; warnings are errors
	@$(PYTHON) -c 'from tools.system_packages import provide; provide(["graphviz"])'
	@$(ENVIRONMENT) docs
	.venv/docs/bin/python -m sphinx -W --keep-going -n -q docs docs/_build

lint: ## check style, format and types
	@$(ENVIRONMENT) lint
	.venv/lint/bin/ruff check
	.venv/lint/bin/ruff format --check
	.venv/lint/bin/mypy --strict

clean: ## remove what the other targets made, servers too
	@if [ -d .venv/servers ]; then $(CONTROL) down; fi
	rm -rf .venv build dist docs/_build imgstore.egg-info .mypy_cache .pytest_cache .ruff_cache
