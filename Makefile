# make deploy   from a bare machine to FastCGI applications that answer, checked
# make test     every test: lint, units, and molecule on real hosts
# The rest: verify, down, lint, unit, molecule, lock. Another target: make deploy INVENTORY=inventory/mine

INVENTORY ?= inventory/local
PORT ?= 8080
export PORT
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: deploy verify down test lint unit molecule lock

deploy: .venv/ready
	ansible-playbook -i $(INVENTORY) playbooks/up.yml playbooks/deploy.yml
	@$(MAKE) --no-print-directory verify

verify: .venv/ready
	pytest -m 'not disruptive' tests --hosts ansible://web --ansible-inventory $(INVENTORY)

down: .venv/ready
	ansible-playbook -i $(INVENTORY) playbooks/down.yml

test: lint unit molecule

lint: .venv/ready
	yamllint --strict .
	ansible-lint
	ruff check && ruff format --check
	mypy
	shellcheck $$(git ls-files '*.sh') .ci/run

unit: .venv/ready
	pytest app plugins

molecule: .venv/ready
	molecule test --all

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
	@touch $@
