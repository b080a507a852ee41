# make deploy   from a bare machine to FastCGI applications that answer, checked
# make test     every test: lint, units, and molecule on real hosts
# make fleet    the same with a balancer and three web hosts
# make bench    mod_fcgid against its peers: docs/benchmark.md; BENCH=smoke, BENCH_ROUNDS=5, BENCH_SECONDS=4
# The rest: rollback APP=…, verify, down, lint, unit, molecule, docs, lock. Another target: make deploy INVENTORY=inventory/mine

INVENTORY ?= inventory/local
PORT ?= 8080
ROLES := roles/mod_fcgid roles/httpd roles/fcgi_app roles/balancer
export PORT
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: deploy fleet rollback verify down test lint unit molecule bench docs lock

deploy: .venv/ready
	ansible-playbook -i $(INVENTORY) playbooks/up.yml playbooks/deploy.yml
	@$(MAKE) --no-print-directory verify

fleet:
	@$(MAKE) --no-print-directory deploy INVENTORY=inventory/fleet

rollback: .venv/ready
	ansible-playbook -i $(INVENTORY) playbooks/rollback.yml -e "app=$(APP) release=$(RELEASE)"

verify: .venv/ready
	pytest -m 'not molecule' tests/host --hosts ansible://web --ansible-inventory $(INVENTORY)

down: .venv/ready
	ansible-playbook -i $(INVENTORY) playbooks/down.yml

test: lint unit molecule

lint: .venv/ready
	yamllint --strict .
	ansible-lint
	set -e; for role in $(ROLES); do ansible-docsmith validate --strict $$role; \
	    ansible-docsmith generate --check --no-defaults $$role; done
	ruff check
	ruff format --check
	mypy
	shellcheck roles/*/files/*.sh .ci/run

docs: .venv/ready
	for role in $(ROLES); do ansible-docsmith generate --no-defaults $$role; done

# System calls are counted with strace, which the hosts of molecule have.
unit: .venv/ready
	pytest tests/unit
	cd app/reference && pytest tests
	cd app/fcgiserve && pytest tests --cov -k "not system_calls"

molecule: .venv/ready
	molecule test --all

bench: .venv/ready
	ansible-playbook -i inventory/bench playbooks/up.yml playbooks/bench.yml

lock: .venv/ready
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --no-emit-index-url --upgrade requirements.in --output-file requirements.txt

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
