# KeyVigil's workshop. CI calls the same targets as a person does: .ci/run.
# Everything is installed inside the checkout: .venv (the project, its tests and gates) and .tools (uv, SAM, the AWS
# command line, the local cloud and checkov, each apart because their dependencies contradict one another).

UV := .tools/uv/bin/uv
CONFIG_ENV ?= default
STACK ?= keyvigil

# What ApiLayer needs as well and KeyVigilLayer, which every function has, brings already.
WITH_KEYVIGIL_LAYER := botocore jmespath python-dateutil six typing-extensions urllib3

# A network that fails for a moment does not fail the installation.
export UV_HTTP_RETRIES ?= 8
export UV_HTTP_TIMEOUT ?= 60
# The layers ship byte code, so the project's interpreter builds them (layers/layer.mk).
export KEYVIGIL_PYTHON := $(CURDIR)/.venv/bin/python
export SAM_CLI_TELEMETRY ?= 0

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##### Installing

# The first of these that runs and is a 3.13 is used: a pyenv shim may be there and still fail.
CANDIDATES = $(PYTHON) python3.13 \
  "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.13*/bin/python3.13 \
  "$${XDG_DATA_HOME:-$$HOME/.local/share}"/uv/python/cpython-3.13*/bin/python3.13 \
  /usr/local/bin/python3.13 /usr/bin/python3.13 /opt/homebrew/bin/python3.13 python3 python
IS_PYTHON_3_13 = import ensurepip, ssl, sys, venv; sys.exit(sys.version_info[:2] != (3, 13))

.PHONY: install
install: .venv/.installed .tools/cloud/.installed .tools/sam/.installed .tools/aws/.installed .tools/checkov/.installed ## everything that is needed, into the checkout

.tools/uv/.installed: requirements/uv.txt
	@for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c '$(IS_PYTHON_3_13)' 2>/dev/null; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo 'KeyVigil needs Python 3.13, the version of its Lambda functions, and no working one was found.' >&2; \
	  echo 'Install one (with its venv module), or name it: make install PYTHON=/where/it/is/python3.13' >&2; \
	  exit 1; \
	fi; \
	echo "Installing uv, which installs the rest, with $$("$$found" --version) (.tools/uv)"; \
	"$$found" -m venv --clear .tools/uv
	@.tools/uv/bin/python -m pip --quiet --disable-pip-version-check --retries 8 --timeout 60 \
	  install --require-hashes --requirement $<
	@touch $@

# $(1) a folder, $(2) its requirements without the ending, $(3) what they are
define install
	@echo "Installing $(3): $$(grep -c '^[a-z].*==' requirements/$(2).txt) packages ($(1))"
	@[ -x $(1)/bin/python ] || $(UV) venv --quiet --clear --python .tools/uv/bin/python $(1)
	@$(UV) pip sync --quiet --require-hashes --compile-bytecode --python $(1)/bin/python requirements/$(2).txt
endef

.venv/.installed: requirements/dev.txt pyproject.toml .tools/uv/.installed
	$(call install,.venv,dev,the project's dependencies with its tests and gates)
	@echo "Installing KeyVigil itself, editable (.venv)"
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python .venv/bin/python --editable .
	@touch $@

.tools/cloud/.installed: requirements/cloud.txt .tools/uv/.installed
	$(call install,.tools/cloud,cloud,the local cloud)
	@touch $@

.tools/sam/.installed: requirements/sam.txt .tools/uv/.installed
	$(call install,.tools/sam,sam,the SAM command line)
	@touch $@

.tools/checkov/.installed: requirements/checkov.txt .tools/uv/.installed
	$(call install,.tools/checkov,checkov,the security gate)
	@touch $@

.tools/aws/.installed: requirements/awscli.txt .tools/uv/.installed
	$(call install,.tools/aws,awscli,the AWS command line)
	@touch $@

# What a demonstration and the tests need, which is less than the gates do.
RUNS := .venv/.installed .tools/cloud/.installed .tools/sam/.installed

##### Trying it

.PHONY: demo
demo: $(RUNS) ## the whole story on a local cloud: a key is disabled, a cluster locked, both come back
	@.venv/bin/keyvigil demo

.PHONY: test
test: $(RUNS) .tools/aws/.installed ## all tests but the next two: unit, integration, template, end to end
	@.venv/bin/pytest

.PHONY: test-guides
test-guides: $(RUNS) .tools/aws/.installed ## every command of README and docs, followed to the letter on local clouds
	@.venv/bin/pytest --verbose tests/guides

.PHONY: test-permissions
test-permissions: $(RUNS) ## each permission of the template is taken away in turn, and something must miss it
	@.venv/bin/pytest --verbose tests/permissions

# What a browser needs, apart from the rest: Debian's Chromium with a font, Playwright to drive it, axe-core to measure.
.tools/page/.installed: requirements/page.txt tests/page/package-lock.json .tools/uv/.installed
	$(call install,.tools/page,page,what looks at the page in a browser)
	@cp tests/page/package.json tests/page/package-lock.json .tools/page/
	@cd .tools/page && npm ci --ignore-scripts --silent
	@touch $@

.PHONY: browser
browser: ## Chromium from Debian's packages, and npm if it is missing; needs root
	@[ -n "$$CHROMIUM" ] || command -v chromium >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; }
	@command -v npm >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends npm; }

WITH_THE_PACKAGE = PYTHONPATH=layers/keyvigil:cli

.PHONY: test-page
test-page: browser .tools/page/.installed ## the page in headless Chromium: contrast, keyboard, widths, light and dark
	@$(WITH_THE_PACKAGE) .tools/page/bin/pytest --verbose tests/page

.PHONY: pictures
pictures: browser .venv/.installed .tools/page/.installed ## README's pictures of the page and of the terminal
	@.venv/bin/python -m tests.unit.cli.terminal_pictures
	@$(WITH_THE_PACKAGE) .tools/page/bin/python -m tests.page.pictures

.PHONY: check-model
check-model: .venv/.installed ## the protocol's model, searched by spin (installed if it is missing), and its deliberate breaks
	@.venv/bin/python tests/models/check_model.py

.PHONY: fault-table
fault-table: $(RUNS) ## docs/fault-table.md, from tests that inject the faults (five minutes)
	@KEYVIGIL_WRITE_FAULT_TABLE=1 .venv/bin/pytest --quiet tests/unit/test_faults.py tests/e2e/test_stories.py \
	  -k 'test_faults or every_fault or keyvigils_own_trouble'
	@.venv/bin/pytest --quiet tests/unit/test_fault_table.py

.PHONY: bench-start-up
bench-start-up: build ## how long each function takes to be ready, as a ratio to boto3 with a KMS client; benchmarks/start_up.md
	@.venv/bin/python benchmarks/start_up.py

##### Measuring

.tools/bench/.installed: requirements/bench.txt .tools/uv/.installed
	$(call install,.tools/bench,bench,what is measured and what measures)
	@touch $@

.PHONY: bench
bench: .tools/bench/.installed ## how fast keys are checked, against what others do: benchmarks/results (ROUNDS=5, four minutes)
	@.tools/bench/bin/python -m benchmarks.bench --rounds $(or $(ROUNDS),5) $(BENCH)

.tools/bench-custodian/.installed: requirements/bench-custodian.txt .tools/uv/.installed
	$(call install,.tools/bench-custodian,bench-custodian,Cloud Custodian)
	@touch $@

.tools/bench-prowler/.installed: requirements/bench-prowler.txt .tools/uv/.installed
	$(call install,.tools/bench-prowler,bench-prowler,Prowler)
	@touch $@

.PHONY: bench-peers
bench-peers: .tools/bench/.installed .tools/bench-custodian/.installed .tools/bench-prowler/.installed ## the same against Cloud Custodian and Prowler, as whole processes over 200 keys (ROUNDS=3)
	@.tools/bench/bin/python -m benchmarks.peers --rounds $(or $(ROUNDS),3)

.PHONY: simulate
simulate: .venv/.installed ## an hour at 1,000 to 1,000,000 keys in simulated time; benchmarks/simulation/results.md (17 minutes)
	@.venv/bin/python -m benchmarks.simulation.run

##### Gates

# All gates run, so that one look shows everything; the whole fails if one of them did.
.PHONY: check
check: .venv/.installed .tools/checkov/.installed ## what must hold of the source: format, lint, types, imports, template, state machines
	@$(MAKE) --no-print-directory --keep-going check-format check-lint check-types check-imports check-template \
	  check-infra check-security

.PHONY: check-format check-lint check-types check-imports check-template check-infra check-security
check-format:
	@echo '== format: ruff format'
	@.venv/bin/ruff format --check
check-lint:
	@echo '== lint: ruff check'
	@.venv/bin/ruff check --output-format concise
check-types:
	@echo '== types: mypy --strict'
	@.venv/bin/mypy
check-imports:
	@echo '== imports: import-linter'
	@.venv/bin/lint-imports --no-logo
check-template:
	@echo '== template: cfn-lint with the serverless rules'
	@.venv/bin/cfn-lint --append-rules cfn_lint_serverless.rules
check-infra:
	@echo '== infra: rendered template and state machines'
	@.venv/bin/pytest --quiet tests/infra
# checkov sees what is wrong with permissions only after the SAM transform, and no Fn::If: it gets what CloudFormation
# would make of the template when everything optional is asked for.
check-security:
	@echo '== security: checkov on the rendered template'
	@mkdir -p .checkov_cache
	@.venv/bin/python -m tests.infra.render .checkov_cache/template.json
	@.tools/checkov/bin/checkov --config-file .checkov.yaml
	@echo '== security: checkov on what customers deploy'
	@.tools/checkov/bin/checkov --config-file .checkov-onboarding.yaml

.PHONY: format
format: .venv/.installed ## put the source into its form
	@.venv/bin/ruff format
	@.venv/bin/ruff check --fix

.PHONY: snapshot
snapshot: .venv/.installed ## accept the rendered template and alerts as they are now: read the diff before you commit it
	@.venv/bin/pytest --quiet tests/infra/test_template.py tests/unit/test_alert_words.py --snapshot-update

.PHONY: schemas
schemas: .venv/.installed ## accept the shapes of stored items that got a schema number of their own: read the diff
	@.venv/bin/python -m tests.integration.item_shapes

.PHONY: event-schemas
event-schemas: .venv/.installed ## docs/schemas/*.json, from the code that makes alerts, lock requests and their answers
	@.venv/bin/python -m tests.event_schemas

.PHONY: cost
cost: .venv/.installed ## README's table of what watching itself costs, and docs/cost.md: the bill
	@.venv/bin/python -m tests.infra.watching_cost
	@.venv/bin/python -m benchmarks.cost

.PHONY: openapi
openapi: .venv/.installed ## docs/openapi.json, from the code that answers the API
	@.venv/bin/python -m keyvigil.api.openapi > docs/openapi.json

##### The stack

.PHONY: build
build: .venv/.installed .tools/sam/.installed ## the stack's artifacts, into .aws-sam
	@find functions -name __pycache__ -prune -exec rm -rf {} +
	@.tools/sam/bin/sam build --config-env $(CONFIG_ENV)

.PHONY: deploy
deploy: build ## the stack, with your AWS settings; CONFIG_ENV=name picks another environment of samconfig.toml
	@.tools/sam/bin/sam deploy --config-env $(CONFIG_ENV)

.PHONY: uninstall
uninstall: .venv/.installed ## removes the stack and all it made; STACK=name, RELEASE=1 unlocks what is locked first
	@.venv/bin/keyvigil uninstall --stack $(STACK) $(if $(RELEASE),--release)

##### Upkeep

UV_COMPILE = cd requirements && ../$(UV) pip compile --quiet --no-header --generate-hashes --universal --python ../.tools/uv/bin/python \
  --python-version 3.13 $(if $(UPGRADE),--upgrade)

.PHONY: requirements
requirements: .tools/uv/.installed ## requirements/*.txt from *.in; UPGRADE=1 takes the newest versions
	$(UV_COMPILE) layer.in -o layer.txt
	$(UV_COMPILE) $(addprefix --no-emit-package ,$(WITH_KEYVIGIL_LAYER)) api-layer.in -o api-layer.txt
	$(UV_COMPILE) dev.in -o dev.txt
	$(UV_COMPILE) cloud.in -o cloud.txt
	$(UV_COMPILE) sam.in -o sam.txt
	$(UV_COMPILE) checkov.in -o checkov.txt
	$(UV_COMPILE) awscli.in -o awscli.txt
	$(UV_COMPILE) page.in -o page.txt
	$(UV_COMPILE) bench.in -o bench.txt
	$(UV_COMPILE) bench-custodian.in -o bench-custodian.txt
	$(UV_COMPILE) bench-prowler.in -o bench-prowler.txt
	$(UV_COMPILE) uv.in -o uv.txt

.PHONY: clean
clean: ## removes what was installed, built and cached
	rm -rf .venv .tools .aws-sam .checkov_cache .local-cloud .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist
	find cli functions layers tests -name __pycache__ -prune -exec rm -rf {} +
