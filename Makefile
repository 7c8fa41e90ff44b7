# Millrace. `make` lists the targets in the order that you meet them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DRIFT  := .venv-drift
DRIFT_READY := $(DRIFT)/.ready
UV     := $(BIN)/uv
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_HTTP_TIMEOUT ?= 180
export PYTHONWARNINGS ?= ignore
# Text is UTF-8 in every locale, also to the libraries that open files themselves.
export PYTHONUTF8 ?= 1
CHOICE = --workload '$(or $(NAMED),$(WORKLOAD))'
HOME_DIR = $(if $(filter /%,$(firstword $(MILLRACE_HOME))),$(MILLRACE_HOME),$(CURDIR)/$(or $(MILLRACE_HOME),.millrace))
# Which workload is meant, everywhere below: make run WORKLOAD=name. NAME is a model of its own that begins from it.
WORKLOAD ?= $(or $(MILLRACE_WORKLOAD),fraud)
# Some systems export a NAME of their own: one that was not typed is none.
NAMED = $(if $(filter command,$(origin NAME)),$(NAME))
STRICT := $(wildcard components/*/core.py serving/*/core.py)
ENGINE ?= docker
TAG    ?= 0.1.0
IMAGES ?= $(shell awk '!/^\#/ {print $$1}' requirements/images/targets)

# An environment knows where it lies: in a checkout that was renamed its scripts start an interpreter that is gone.
MOVED := $(shell python=$$(head -3 $(BIN)/millrace 2>/dev/null | grep -o '/[^"]*/bin/python[0-9.]*' | head -1); test -z "$$python" || test -x "$$python" || echo moved)
ifeq ($(MOVED),moved)
$(info make: $(VENV) was made in another place; it is made again)
$(shell rm -rf $(VENV) $(DRIFT))
endif

##@ Start here

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-zA-Z_-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' Makefile

.PHONY: run
run: setup ## Raw events to live predictions [WORKLOAD=name] [DATA=uri] [MAP=columns.yaml] [NAME=own]; without DATA on simulated data.
	$(BIN)/python -m run $(if $(DATA),--data "$$DATA") $(if $(MAP),--columns "$$MAP") --workload '$(WORKLOAD)' $(if $(NAMED),--name '$(NAMED)') $(ARGS)

.PHONY: test
test: setup drift-env lint ## Lint, types, and every test (real pipeline and servers on a small simulation).
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# Tests wait for servers a quarter of their time: with a worker more than cores they end sooner.
WORKERS ?= 2

.PHONY: setup
setup: $(READY) ## Make the environment in .venv (uv, from the lock).

.PHONY: drift-env
drift-env: $(DRIFT_READY) ## Make the drift detector's environment in .venv-drift.

.PHONY: spark-env
spark-env: setup ## Make the Spark engine's environment in .venv-spark, for its tests (needs Java 17).
	@command -v java >/dev/null || { echo "make: java not found. Install Java 17 (Debian: apt-get install openjdk-17-jre-headless)"; exit 1; }
	test -x .venv-spark/bin/python || $(PYTHON) -m venv .venv-spark
	$(UV) pip install -q -p .venv-spark/bin/python -r requirements/images/spark-driver.txt
	$(UV) pip install -q -p .venv-spark/bin/python --no-deps -e .

##@ Live servers

.PHONY: up
up: setup ## Start the servers for the promoted model and keep them.
	$(BIN)/python -m serving.local $(CHOICE) up $(ARGS)

.PHONY: down
down: setup ## Stop them.
	$(BIN)/python -m serving.local down $(ARGS)

.PHONY: status
status: setup ## What runs, where, since when.
	$(BIN)/python -m serving.local $(CHOICE) status $(ARGS)

.PHONY: predict
predict: setup ## Send one request and show the answer.
	$(BIN)/python -m serving.local $(CHOICE) predict $(ARGS)

.PHONY: refresh
refresh: setup ## Renew the online store as of now from the newest features, as the cluster's CronJob does every half hour.
	$(BIN)/python -O -m components.materialize.refresh $(CHOICE) $(ARGS)

.PHONY: labels
labels: setup ## Load labels that became known: FILE=labels.csv (or Parquet, any URI).
	$(BIN)/python -m serving.prediction_log labels '$(FILE)' $(CHOICE) $(ARGS)

.PHONY: score
score: setup ## Score the rows of a file without a server: DATA=uri [OUT=scores.parquet]; one day, no labels, no gate [ARGS=--help].
	$(BIN)/millrace score $(if $(DATA),"$$DATA") $(if $(MAP),--columns "$$MAP") $(if $(OUT),-o "$$OUT") $(CHOICE) $(ARGS)

.PHONY: doctor
doctor: setup ## Check the home and this machine: what is wrong, and the command that mends it [ARGS='--fix --json'].
	$(BIN)/millrace doctor $(CHOICE) $(ARGS)

.PHONY: mlflow
mlflow: setup ## Open MLflow's UI on the local runs and registry.
	$(BIN)/mlflow ui --backend-store-uri 'sqlite:///$(HOME_DIR)/mlflow/mlflow.db' --port $(or $(PORT),5000)

.PHONY: feast
feast: setup ## Open Feast's UI on the local registry.
	$(BIN)/feast -c $(HOME_DIR)/feast/$(or $(NAMED),$(WORKLOAD)) ui --port $(or $(PORT),8888)

.PHONY: feature-server
feature-server: setup ## Serve feature lookups over HTTP from the local store [PORT=6566]; feature_repo/README.md shows how to ask.
	$(BIN)/feast -c $(HOME_DIR)/feast/$(or $(NAMED),$(WORKLOAD)) serve --port $(or $(PORT),6566) --max-requests 1000000 --no-access-log $(ARGS)

.PHONY: observe
observe: setup ## Watch the local servers with a real Prometheus and the cluster's alerts [PORT=9090].
	$(BIN)/python -m serving.local.observe --port $(or $(PORT),9090) $(ARGS)

##@ What serves

.PHONY: canary
canary: setup ## Give the challenger its first share of the traffic [VERSION=n].
	$(BIN)/python -m serving.rollout --start $(if $(VERSION),--version $(VERSION)) $(CHOICE) $(ARGS)

.PHONY: rollout
rollout: setup ## Watch the canary and move traffic until it is promoted or rolled back.
	$(BIN)/python -m serving.rollout --until-end $(CHOICE) $(ARGS)

.PHONY: abort
abort: setup ## Roll the canary back now [REASON=text].
	$(BIN)/python -m serving.rollout --abort $(if $(REASON),--reason '$(REASON)') $(CHOICE) $(ARGS)

.PHONY: rollback
rollback: setup ## Make the previous champion the champion again.
	$(BIN)/millrace rollback $(CHOICE) $(ARGS)

.PHONY: compare
compare: setup ## Two model versions or arms side by side, from the prediction log: A=3 B=4, or A=champion B=shadow.
	$(BIN)/python -m run.compare '$(A)' '$(B)' $(CHOICE) $(ARGS)

##@ Watch and retrain

.PHONY: monitor
monitor: setup ## Judge the served model on the labels that have arrived; an alarm ends with status 3 [AS_OF=time].
	$(BIN)/python -m run.monitor $(if $(AS_OF),--as-of '$(AS_OF)') $(CHOICE) $(ARGS)

.PHONY: drift-report
drift-report: setup ## The drift report, from what the detector has seen: .millrace/report/<workload>/drift.html
	$(BIN)/python -m serving.drift_detector.report $(CHOICE) $(ARGS)

.PHONY: retrain
retrain: setup ## Train a challenger now: REASON='why'; it goes into a canary if it beats the champion (4: it does not).
	$(BIN)/python -m serving.retraining_trigger $(CHOICE) ask --reason '$(or $(REASON),asked for with make retrain)' $(ARGS)

.PHONY: drill
drill: setup drift-env ## 60 simulated days through live servers: drift, an outage, a new pattern; when each was noticed [ARGS=--chaos].
	$(BIN)/python -m drill $(CHOICE) $(ARGS)

##@ Judge it

.PHONY: backtest
backtest: setup ## The protocol of weekly folds: DATA=uri FROM=YYYY-MM-DD WEEKS=n [DAYS=n] OUT=scores.parquet
	$(BIN)/python -m run.backtest --data "$$DATA" --from '$(FROM)' --weeks '$(or $(WEEKS),4)' --days '$(or $(DAYS),28)' --out '$(or $(OUT),scores.parquet)' $(CHOICE) $(ARGS)

.PHONY: search
search: setup ## Hyper-parameters on the validation days: MINUTES=n [DATA=uri]; the same command goes on [ARGS=--help].
	$(BIN)/python -m search --minutes '$(or $(MINUTES),30)' $(if $(DATA),--data "$$DATA") $(if $(MAP),--columns "$$MAP") $(CHOICE) $(ARGS)

.PHONY: edge
edge: setup ## The champion as a folder that needs numpy and onnxruntime only: [OUT=folder] [VERSION=n] [ARGS=--help].
	$(BIN)/python -m edge $(if $(OUT),--out '$(OUT)') $(if $(VERSION),--version $(VERSION)) $(CHOICE) $(ARGS)

.PHONY: variants
variants: setup ## What would make the newest model cheaper: fp16, int8, pruning, students, AOTInductor; size, latency, AP [ARGS=--help].
	$(BIN)/python -m benchmarks.variants $(ARGS)

.PHONY: bench-features
bench-features: setup ## Feast's online lookup on Redis, in process and through the feature server, 1 and 64 rows.
	$(BIN)/python -m benchmarks.online_features $(ARGS)

.PHONY: bench-spark
bench-spark: spark-env ## Features on Spark and on DuckDB, the same 1.78 M rows: CPU seconds and wall [ARGS=--quick].
	$(BIN)/python -m benchmarks.spark $(ARGS)

.PHONY: bench
bench: setup ## Features, training and a whole run, as ratios from interleaved runs: docs/speed.md [ARGS=features].
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-serving
bench-serving: setup ## Requests a second and latency beside bare ASGI, stock KServe, MLServer, BentoML, LitServe [ARGS='--help'].
	$(BIN)/python -m benchmarks.serving $(ARGS)

.PHONY: bench-envoy
bench-envoy: setup ## What Envoy adds to a call, at the gateway and at a predictor's port: p50 and CPU [ARGS='--clients 16'].
	$(BIN)/python -m benchmarks.envoy $(ARGS)

.PHONY: bench-log
bench-log: setup ## Events a second into the prediction log, rows a second into its database.
	$(BIN)/python -m benchmarks.prediction_log $(ARGS)

.PHONY: fuzz
fuzz: setup ## Requests of every kind, valid and mutated, at the running home: no 500, no other's answer, no hang [ARGS='--requests 100000'].
	$(BIN)/python -m benchmarks.fuzz $(CHOICE) $(ARGS)

.PHONY: chaos
chaos: setup ## kill -9 of everything that runs, under load: what was acknowledged is logged once, and remembered [ARGS='--kills 30 --minutes 10'].
	$(BIN)/python -m benchmarks.chaos $(CHOICE) $(ARGS)

##@ On a cluster

.PHONY: check-cluster
check-cluster: setup ## What the current kube context lacks for OVERLAY=kind|staging|production, before anything is applied.
	$(BIN)/python manifests/check_cluster.py $(or $(OVERLAY),kind) $(ARGS)

.PHONY: apply
apply: setup ## Apply OVERLAY=kind|staging|production to the current kube context and leave the served model as it is [ARGS=--diff].
	$(BIN)/python manifests/apply.py $(or $(OVERLAY),kind) $(ARGS)

.PHONY: test-cluster
test-cluster: setup ## The story of docs/cluster.md on the current kube context, which it changes: OVERLAY=kind [HOST=url SOURCE=uri GATEWAY=url].
	MILLRACE_TEST_CLUSTER=1 OVERLAY=$(or $(OVERLAY),kind) HOST=$(HOST) SOURCE=$(SOURCE) GATEWAY=$(GATEWAY) $(BIN)/python -m pytest -q tests/e2e/cluster $(ARGS)

.PHONY: check-manifests
check-manifests: setup ## Overlays and components build, fit the API server's schemas, each other and the code.
	$(BIN)/python -m pytest -q -n 2 tests/contract/test_manifests*.py tests/contract/test_images.py $(ARGS)

# docker and podman keep finished steps for the next build; buildah does when told to.
images: export BUILDAH_LAYERS ?= true
.PHONY: images
images: ## Build every image, or IMAGES="predictor …" [ENGINE=docker|podman|buildah] [REGISTRY=host/] [BUILD_ARGS=…]
	@command -v $(ENGINE) >/dev/null || { echo "make: $(ENGINE) not found. Install one of docker, podman, buildah, and name it: make images ENGINE=podman"; exit 1; }
	set -e; for name in $(IMAGES); do $(ENGINE) build --target $$name --tag $(REGISTRY)millrace/$$name:$(TAG) --build-arg REVISION=$$(git rev-parse HEAD) $(BUILD_ARGS) .; done

.PHONY: push
push: ## Push them: REGISTRY=host/ [TAG=…]
	set -e; for name in $(IMAGES); do $(ENGINE) push $(REGISTRY)millrace/$$name:$(TAG); done

.PHONY: base-digest
base-digest: ## What the registry says the base image's tag is today, to compare with the digest in the Dockerfile.
	docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}' 2>/dev/null || skopeo inspect --format '{{.Digest}}' docker://docker.io/library/python:3.11-slim-bookworm

.PHONY: check-images
check-images: setup ## Each image's environment from its lock, its entry points started in it; needs no engine [IMAGES=…].
	PYTHON=$(PYTHON) requirements/check-images $(UV) $(IMAGES)

.PHONY: submit
submit: setup ## Run a pipeline on Kubeflow Pipelines: PIPELINE=training HOST=url ARGS="--param source=uri" (ARGS=--help for all)
	$(BIN)/python -m run.submit $(or $(PIPELINE),training) $(if $(HOST),--host '$(HOST)') $(ARGS)

.PHONY: sbom
sbom: setup ## A bill of materials (CycloneDX) for each image into .millrace/sbom.
	$(BIN)/python requirements/sbom '$(HOME_DIR)/sbom'

.PHONY: audit
audit: setup ## Known vulnerabilities of every image's packages (pip-audit; needs its service).
	set -e; for lock in requirements/images/*.txt requirements/drift-detector.txt; do echo $$lock; $(UV) tool run pip-audit@2.9.0 --no-deps --disable-pip -r $$lock; done

##@ Change it

.PHONY: lint
lint: setup ## ruff, mypy (strict on src and every core.py), compiled pipelines and manifests up to date.
	$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	$(BIN)/mypy --strict src $(STRICT)
	$(BIN)/python -m run.compile --check
	$(BIN)/python -m run.manifests --check

.PHONY: format
format: setup ## Format and fix what can be fixed.
	$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

.PHONY: compile
compile: setup ## Compile the pipelines to pipelines/compiled.
	$(BIN)/python -m run.compile

.PHONY: manifests
manifests: setup ## Write each workload's Kubernetes objects to manifests/workloads.
	$(BIN)/python -m run.manifests

.PHONY: lock
lock: setup ## Resolve the locks again from pyproject.toml.
	requirements/lock $(UV)

.PHONY: clean
clean: ## Stop the servers and remove all local state (.millrace). The environment stays.
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m serving.local down; fi
	rm -rf .millrace

$(READY): requirements/main.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found. Install Python 3.11 (Debian: apt-get install python3.11 python3.11-venv), or name yours: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) --version); Millrace wants Python 3.11: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements/uv.txt
	$(UV) pip install -q --compile-bytecode -p $(BIN)/python -r requirements/main.txt
	$(UV) pip install -q -p $(BIN)/python --no-deps -e .
	@touch $@

# The detector's own environment: its pins cannot join the others (docs/adr).
$(DRIFT_READY): requirements/drift-detector.txt requirements/drift-detector-dev.txt requirements/drift-detector.override.txt $(READY)
	$(UV) venv -q --clear -p $(PYTHON) $(DRIFT)
	$(UV) pip install -q -p $(DRIFT)/bin/python --override requirements/drift-detector.override.txt \
		-r requirements/drift-detector.txt -r requirements/drift-detector-dev.txt
	$(UV) pip install -q -p $(DRIFT)/bin/python --no-deps -e .
	$(UV) pip install -q -p $(DRIFT)/bin/python --no-deps --target $(DRIFT)/alibi-detect-0.13.0 alibi-detect==0.13.0 # for a test only: BSL 1.1
	@touch $@
