# Shared by both layers. `sam build` runs make in a copy of one layer's folder, and decides by that folder's content
# whether a cached build will do: so each folder links to this file and to its requirements, and refers to nothing else.

# The interpreter whose byte code is shipped, so it must be the runtime's version. It needs pip.
PYTHON := $(or $(KEYVIGIL_PYTHON),python3.13)
SITE = $(ARTIFACTS_DIR)/python

PIP_INSTALL = "$(PYTHON)" -m pip --quiet --quiet --disable-pip-version-check --no-input --retries 8 --timeout 60 \
  install --no-deps --no-compile --require-hashes --only-binary=:all: --root-user-action=ignore \
  --python-version 3.13 --requirement requirements.txt

.PHONY: empty-site
empty-site:
	@test -n "$(ARTIFACTS_DIR)" || { echo 'ARTIFACTS_DIR is not set: `sam build` runs this file.' >&2; exit 2; }
	@"$(PYTHON)" -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null || { echo \
	  "$(PYTHON) is not a Python 3.13 with pip. Name one in KEYVIGIL_PYTHON, or use \`make build\`, which does." >&2; \
	  exit 2; }
	rm -rf "$(SITE)"
	mkdir -p "$(SITE)"

# Without byte code a cold start takes 3.6 times as long. `unchecked-hash`, a fixed hash seed and the path that the
# layer has in Lambda make the same source give the same bytes, wherever and whenever it is built, so that a deployment
# without a change changes nothing. METADATA stays: programs read their versions from it.
define ship_byte_code
	find "$(SITE)" -type d \( -name __pycache__ -o -name bin \) -prune -exec rm -rf {} +
	find "$(SITE)" -path '*.dist-info/*' \( -name RECORD -o -name INSTALLER -o -name REQUESTED \) -delete
	PYTHONHASHSEED=0 "$(PYTHON)" -m compileall -q --invalidation-mode unchecked-hash -s "$(SITE)" -p /opt/python "$(SITE)"
endef
