# The commands of Kumo. Everything but `setup`, `up` and `test` expects that `make setup` has run.
# KUMO_STATE names the state directory of a region (/var/lib/kumo), KUMO_PORT_BASE the first of its 60 ports (7400); KUMO_LAB names that
# of a lab of several hosts (/var/lib/kumo-lab), KUMO_FAKES that of a region of fake hosts (~/.local/state/kumo-fakes).

.DEFAULT_GOAL := help
SYSTEM_PYTHON := /usr/bin/python3
PYTHON := .venv/bin/python
PACKAGES := $(wildcard kumo storage scheduler controller agent cli deploy proto bench tests)

.PHONY: help setup up down purge status logs shell lab lab-status lab-down lab-purge lab-shell fakes fakes-down fakes-purge test soak lint bench proto lock image

help:  ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup:  ## install what is missing: Debian packages, etcd, .venv, the guest image
	@$(SYSTEM_PYTHON) -m deploy.setup --develop

up:  ## start a region and boot a server in it; STORAGE=file needs no Ceph
	@$(SYSTEM_PYTHON) -m deploy.setup
	@$(PYTHON) -m deploy.up $(if $(STORAGE),--storage $(STORAGE))

down:  ## stop the region; its state is kept
	@$(PYTHON) -m deploy.down

purge:  ## stop the region and leave nothing of it
	@$(PYTHON) -m deploy.down --purge

status:  ## what runs
	@$(PYTHON) -m deploy.look status

logs:  ## the ends of all logs; NAME=kumo-agent follows one
	@$(PYTHON) -m deploy.look logs $(NAME)

snapshot:  ## save what the region's store knows; FILE=/path/to/snapshot
	@$(PYTHON) -m deploy.snapshot save $(FILE)

restore:  ## go back to what was saved; FILE=/path/to/snapshot
	@$(PYTHON) -m deploy.snapshot restore $(FILE)

shell:  ## a shell inside the region's host: its processes, its libvirt
	@$(PYTHON) -m deploy.look shell

lab:  ## start a lab of HOSTS=3 hosts, each in namespaces of its own, and draw it
	@$(SYSTEM_PYTHON) -m deploy.setup
	@$(PYTHON) -m deploy.lab up $(if $(HOSTS),--hosts $(HOSTS)) $(LAB)

lab-status:  ## draw the lab
	@$(PYTHON) -m deploy.lab status

lab-down:  ## stop the lab; its state is kept
	@$(PYTHON) -m deploy.lab down

lab-purge:  ## stop the lab and leave nothing of it
	@$(PYTHON) -m deploy.lab purge

lab-shell:  ## a shell on NODE=h1
	@$(PYTHON) -m deploy.lab shell $(or $(NODE),h1)

fakes:  ## start a region of HOSTS=100 fake hosts, without root
	@$(SYSTEM_PYTHON) -m deploy.setup --fakes
	@$(PYTHON) -m deploy.fakes up $(if $(HOSTS),--hosts $(HOSTS))

fakes-down:  ## stop it; its state is kept
	@$(PYTHON) -m deploy.fakes down

fakes-purge:  ## stop it and leave nothing of it
	@$(PYTHON) -m deploy.fakes purge

test: setup  ## run all tests, in namespaces that end with them; ARGS="-k name" chooses
	@$(PYTHON) -m tests $(ARGS)

soak: setup  ## the same with larger counts: every step killed, 100,000 things, thousands of seeds; takes hours
	@KUMO_SOAK=1 $(PYTHON) -m tests $(ARGS)

lint:  ## style, types, directions of imports, contracts
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@$(PYTHON) -m mypy $(PACKAGES)
	@.venv/bin/lint-imports --no-logo
	@$(PYTHON) -m proto.check
	@$(PYTHON) proto/generate.py --check
	@$(PYTHON) proto/generate_store.py --check

bench:  ## run every benchmark, print a table, write bench/results.json
	@$(PYTHON) -m bench

proto:  ## compile the contracts to kumo/api
	@$(PYTHON) proto/generate.py
	@$(PYTHON) proto/generate_store.py

image:  ## build the small guest image anew, with the packages Debian has now
	@$(SYSTEM_PYTHON) -m deploy.image.build --anew

lock:  ## write the locks anew from pyproject.toml
	@$(PYTHON) -m deploy.lock
