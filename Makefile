# make deploy   from a bare machine to FastCGI applications that answer, checked
# make status   the applications, their releases and their workers
# make test     every test: lint, units, and molecule on real hosts
# make fleet    the same with a balancer and three web hosts
# make image    the same as a container image
# make swarm    the image as a stack on Docker Swarm
# make bench    mod_fcgid against its peers: docs/benchmark.md; BENCH=smoke, BENCH_ROUNDS=5, BENCH_SECONDS=4
# The rest: rollback APP=…, verify, sbom, down, uninstall, lint, sanity, unit, interop, molecule, patches, scale, docs, lock, audit. Another target: make deploy INVENTORY=inventory/mine

INVENTORY ?= inventory/local
PORT ?= 8080
# The longest first. Two are not molecule's: the commands of the documentation, and Debian 13 as the controller.
LONGEST := documentation releases fleet preflight faults image debian13
SCENARIOS := $(LONGEST) $(filter-out $(LONGEST),$(notdir $(wildcard molecule/*)))
COMMAND_documentation := pytest tests/documentation
COMMAND_debian13 := dev/on_debian.py trixie lint unit interop
export PORT
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# A line a step; what Ansible prints otherwise is in the log.
PLAYBOOK = @install -D -m 600 /dev/null build/log/$@.log; \
    ANSIBLE_DEPRECATION_WARNINGS=false ANSIBLE_STDOUT_CALLBACK=fcgid.stack.progress ANSIBLE_LOG_PATH=build/log/$@.log ansible-playbook -i $(INVENTORY)

.PHONY: deploy fleet image swarm rollback verify sbom status down uninstall test test-changed lint sanity unit interop molecule patches \
    bench scale docs lock audit

deploy: .venv/ready
	$(PLAYBOOK) dev/up.yml playbooks/deploy.yml
	@$(MAKE) --no-print-directory verify
	@$(MAKE) --no-print-directory status

fleet:
	@$(MAKE) --no-print-directory deploy INVENTORY=inventory/fleet

image swarm: INVENTORY = inventory/image
image swarm: .venv/ready
	$(PLAYBOOK) playbooks/$@.yml

rollback: .venv/ready
	$(PLAYBOOK) playbooks/rollback.yml -e "app=$(APP) release=$(RELEASE)"

verify: .venv/ready
	@pytest --quiet -r fE -m 'not molecule' tests/acceptance --hosts ansible://web --ansible-inventory $(INVENTORY)

sbom: .venv/ready
	$(PLAYBOOK) playbooks/sbom.yml

status: export ANSIBLE_DISPLAY_OK_HOSTS = false
status: .venv/ready
	$(PLAYBOOK) playbooks/status.yml

# The containers of this machine, no other host.
down: .venv/ready
	$(PLAYBOOK) dev/down.yml

uninstall: .venv/ready
	$(PLAYBOOK) playbooks/uninstall.yml -e "uninstall_confirm=$(CONFIRM)"

# Two at a time. The targets share their jobs with the scenarios.
JOBS = $(if $(findstring jobserver,$(MAKEFLAGS)),,--jobs=2 --output-sync=target)
test: .venv/ready
	@$(MAKE) --no-print-directory $(JOBS) lint unit molecule

lint: .venv/ready
	yamllint --strict .
	ansible-lint
	antsibull-docs lint-collection-docs --plugin-docs --skip-rstcheck .
	antsibull-changelog lint
	ruff check
	ruff format --check
	mypy
	shellcheck roles/*/files/*.sh .ci/run
	@$(MAKE) --no-print-directory docs

# ansible-test wants a collection as a user has it: built, installed, and known to git. It fetches its tools itself.
sanity: .venv/ready
	@rm -rf build/sanity
	ansible-galaxy collection build --output-path build/sanity
	ansible-galaxy collection install --no-deps --force --collections-path build/sanity build/sanity/fcgid-stack-*.tar.gz
	cd build/sanity/ansible_collections/fcgid/stack && git init --quiet && git add . && \
	    ansible-test sanity --python "$$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')"

# The site, in build/site; the reference of roles and modules is generated from their argument specs.
docs: .venv/ready
	@install -d -m 755 docs/reference/collection
	antsibull-docs --config-file docs/antsibull-docs.cfg collection --use-current --squash-hierarchy --fail-on-error \
	    --cleanup everything --no-add-antsibull-docs-version --dest-dir docs/reference/collection fcgid.stack
	sphinx-build -q -W --keep-going --fresh-env docs build/site

# System calls are counted with strace, which the hosts of molecule have.
unit: .venv/ready
	pytest tests/unit
	cd app/reference && pytest tests
	cd app/fcgiserve && pytest tests --cov -k "not system_calls"

# fcgiserve against the web servers of this machine.
interop: .venv/ready
	cd app/fcgiserve && pytest interop

# lint, the unit tests, and the scenarios that a change touches: make test-changed [BASE=main]
test-changed: lint unit
	@scenarios="$$(dev/changed_scenarios.py $(or $(BASE),HEAD))"; test -z "$$scenarios" || \
	    $(MAKE) --no-print-directory molecule SCENARIOS="$$scenarios"

# Two scenarios at a time. What they share is made first: the engine, the images of the hosts, and the snapshot of a
# deployed host, from which scenarios start that prove something else. Failures are repeated at the end.
molecule: .venv/ready
	ansible-playbook -i inventory/local dev/up.yml --tags engine
	ansible-playbook -i inventory/local dev/up.yml --tags engine -e container_release=trixie
	ansible-playbook -i dev/snapshot dev/snapshot.yml
	@rm -rf build/molecule
	@$(MAKE) --no-print-directory $(JOBS) $(SCENARIOS:%=molecule-%) || \
	    { grep -A 15 -E 'fatal: |short test summary' build/molecule/*.log; exit 1; }

molecule-%: .venv/ready
	@mkdir -p build/molecule && rm -f build/molecule/$*.*
	@echo "$*: build/molecule/$*.log"
	@begun=$$(date +%s); \
	    $(or $(COMMAND_$*),molecule test --scenario-name $*) \
	    >build/molecule/$*.log 2>&1 && mv build/molecule/$*.log build/molecule/$*.passed; \
	    status=$$?; cat build/molecule/$*.*; echo "$*: $$(($$(date +%s) - begun)) s"; exit $$status

# Both want the swarm of this machine's engine.
ifneq ($(filter molecule-documentation,$(MAKECMDGOALS)),)
molecule-image: | molecule-documentation
endif

# The patches of mod_fcgid for review: each compiled, and printed with the functions that it changes.
patches:
	@dev/patches.py

bench: .venv/ready
	ansible-playbook -i dev/bench/hosts.yml dev/up.yml dev/bench.yml

scale: .venv/ready
	uv run --no-project --quiet --with matplotlib dev/bench/scale.py

LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate --no-header \
    --no-emit-index-url --upgrade

# The tools; and what installs the wheels on a host.
lock: .venv/ready
	$(LOCK) requirements.in --output-file requirements.txt
	echo pip | $(LOCK) - --output-file roles/fcgi_app/files/pip.txt

# The locked Python packages against the vulnerabilities that the public Python index knows. Other indexes have no such data.
audit: .venv/ready
	@for lock in requirements.txt roles/fcgi_app/files/pip.txt; do \
	    uv run --no-project --quiet --with pip-audit==2.10.1 pip-audit --strict --progress-spinner off --disable-pip \
	        --require-hashes --requirement $$lock || { echo "make audit: a package of $$lock has a known vulnerability, or" \
	        "'could not be audited': the package index of this machine has no data on it."; exit 1; }; done

# On Debian the module that makes virtual environments is a package of its own.
.venv/ready: requirements.txt
	@python3 -c 'import ensurepip' 2>/dev/null || { test "$$(id -u)" = 0 && apt-get -q update && \
	    apt-get -q install --yes --no-install-recommends python3-venv; } || \
	    { echo 'Python cannot make virtual environments here: install the package python3-venv.'; exit 1; }
	python3 -m venv --clear .venv
	.venv/bin/pip install --disable-pip-version-check --require-hashes --requirement requirements.txt
	.venv/bin/pip install --disable-pip-version-check --no-deps --no-build-isolation \
	    --editable app/fcgiserve --editable app/reference
	@touch $@
