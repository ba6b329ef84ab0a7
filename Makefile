# Try it: make lab. Test it: make test. See the README for the rest.
.DEFAULT_GOAL := help
.PHONY: help lab lab-up lab-down lab-clean lab-status lab-logs lab-ssh install lint test test-full bench bench-fleet bench-image bench-probe pictures

export PATH := $(CURDIR)/.venv/bin:$(PATH)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
SUDO_KEEP := $(if $(SUDO),sudo -E) env PATH=$(PATH)
# Tests work as root; what they leave in the checkout is the user's.
GIVE_BACK := $(if $(SUDO),$(SUDO) chown -R $(shell id -u):$(shell id -g) .,true)
LAB := $(SUDO) .venv/bin/python -m lab
STATE := inventory/lab/state

# Molecule ends with a table of its own: which test of a scenario has failed is said after it.
define with-lab
trap '$(GIVE_BACK)' EXIT; set -e; \
KAMAILIO_ROOT=$$($(LAB) kamailio-root); \
$(SUDO_KEEP) KAMAILIO_ROOT=$$KAMAILIO_ROOT .venv/bin/python -m pytest $(1); \
$(SUDO_KEEP) .venv/bin/molecule test --all || { .venv/bin/python -m pytest --cache-show cache/lastfailed; exit 1; }
endef

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: ## what a rollout needs: .venv with Ansible and python-digitalocean
	@lab/bootstrap control

.venv/dev.installed: pyproject.toml lab/bootstrap
	@lab/bootstrap dev

.venv/browser.installed: pyproject.toml lab/bootstrap .venv/dev.installed
	@lab/bootstrap browser

$(STATE)/id_ed25519:
	@mkdir -p -m 700 $(STATE)
	@ssh-keygen -q -t ed25519 -N '' -C teams-sbc-lab -f $@

lab: lab-up ## the Internet in one box, and one customer rolled out in it
	@$(LAB) trunk contoso.voip.test
	@.venv/bin/ansible-playbook -i inventory/lab site.yml
	@$(LAB) next

lab-up: .venv/dev.installed $(STATE)/id_ed25519 ## the Internet in one box, with nobody in it
	@$(LAB) up

lab-down: ## take the lab down, droplets and all
	@$(LAB) down

lab-clean: ## take it down and remove its image and package cache
	@$(LAB) clean

lab-status: ## what runs in the lab
	@$(LAB) status

lab-logs: ## what the lab's services and droplets wrote
	@$(LAB) logs

lab-ssh: ## a shell on the customer's droplet
	@$(LAB) ssh

lint: .venv/dev.installed ## ruff, mypy, yamllint, ansible-lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/yamllint --strict .
	.venv/bin/ansible-lint --offline

test: lint $(STATE)/id_ed25519 ## everything that CI runs
	@$(call with-lab,-m 'not full')

test-full: lint .venv/browser.installed $(STATE)/id_ed25519 ## the same, and what takes longer
	@$(call with-lab)

bench: .venv/dev.installed $(STATE)/id_ed25519 ## how fast a rollout is, against the bare critical path
	@$(SUDO_KEEP) .venv/bin/python benchmarks/rollout.py; code=$$?; $(GIVE_BACK); exit $$code

bench-image: .venv/dev.installed $(STATE)/id_ed25519 ## a rollout from a golden image, against one from the plain image
	@$(SUDO_KEEP) .venv/bin/python benchmarks/image.py; code=$$?; $(GIVE_BACK); exit $$code

bench-fleet: .venv/dev.installed ## a look at 10, 100 and 1,000 customers: time and requests
	@.venv/bin/python benchmarks/fleet.py

bench-probe: .venv/dev.installed ## what the probe costs, beside another exporter
	@$(SUDO_KEEP) KAMAILIO_ROOT=$$($(LAB) kamailio-root) .venv/bin/python benchmarks/probe.py; code=$$?; $(GIVE_BACK); exit $$code

pictures: .venv/browser.installed ## the pictures of the pages in docs/pictures, made anew
	@PYTHONPATH=.:src:tests/probe .venv/bin/python docs/screenshots.py
