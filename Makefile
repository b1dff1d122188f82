# Countersign. `make help` lists what there is.

SHELL := /usr/bin/env bash
.DEFAULT_GOAL := help

# go.mod names the toolchain; an older Go fetches it.
export GOTOOLCHAIN := auto

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := bin/countersign
PG      := scripts/with-postgres.sh
# Tests need no symbols for debuggers, and make lint runs go vet.
QUICK   := -ldflags=-w -vet=off
GOTEST  := scripts/test-twice.sh go test $(QUICK)
# The longest first, or they end alone.
ALL     := ./internal/server ./cmd/countersign ./...
LINT    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: help up build test test-short test-browser test-race test-race-long test-faults bench detection-bench fuzz conformance containment screenshots lint verify clean

help: ## show this help
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  \033[1m%-13s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: build ## build Countersign and start it with the example business
	$(BIN) up --example

build: ## build bin/countersign
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/countersign

test: ## run every test on both engines and in a browser (installs PostgreSQL and Chromium when missing; npm and Python clients too)
	scripts/browser.sh
	COUNTERSIGN_TEST_BROWSER=1 $(PG) $(GOTEST) -timeout 30m $(ALL)

test-short: ## run the tests that need Go alone (SQLite)
	env -u COUNTERSIGN_TEST_POSTGRES go test $(QUICK) -short -timeout 20m ./...

test-browser: ## try the console alone in a real Chromium (installs it when missing)
	scripts/browser.sh
	COUNTERSIGN_TEST_BROWSER=1 $(GOTEST) -v -count=1 -timeout 20m -run InABrowser ./internal/server

# Rooms that are little but rows and requests; test-race-long runs them too.
PLAIN := /internal/(signin|lifecycle|posture|manifest|connections|passkeys)$$

test-race: ## run the tests of what works concurrently, without processes, under the race detector (SQLite), and what replicas share on PostgreSQL too
	$(PG) env -u COUNTERSIGN_TEST_POSTGRES $(GOTEST) -race -short -timeout 45m -skip 'TestScripts/sqlite/(attack|example)$$' $$(go list ./... | grep -vE '$(PLAIN)')
	$(PG) $(GOTEST) -race -timeout 45m -run '/postgres' ./internal/storage ./internal/job ./internal/audit ./internal/locks

test-race-long: ## run every test on both engines under the race detector; takes an hour
	$(PG) go test $(QUICK) -race -timeout 90m $(ALL)

test-faults: ## the long fault tests: hundreds of kills on each engine, disks and networks that fail
	scripts/fault-tools.sh
	COUNTERSIGN_FAULTS=long COUNTERSIGN_POSTGRES_SYNC=on $(PG) go test -count=1 -timeout 60m -run 'Kill|Fault|Crash' ./...

bench: ## measure, print ratios, write bench/results/*.json
	@mkdir -p bench/results
	COUNTERSIGN_BENCH_OUT=$(CURDIR)/bench/results COUNTERSIGN_POSTGRES_SYNC=on $(PG) scripts/bench.sh

fuzz: ## run every fuzz target for FUZZTIME each (default 60s)
	scripts/fuzz.sh $(or $(FUZZTIME),60s)

conformance: build ## run the MCP conformance suite directly and through Countersign
	go run ./conformance -out docs/conformance.md

screenshots: build ## make docs/screenshots/*.png of the example business
	scripts/screenshots.sh

containment: build ## replay recorded attacks and honest tasks through a server, write docs/containment-bench.md
	go run ./containment -out docs/containment-bench.md

detection-bench: ## run attacks and honest agents of a simulated month through detection, the attacks through real servers too, write docs/detection-bench.md
	COUNTERSIGN_DETECTION_BENCH=$(CURDIR)/docs/detection-bench.md go test ./internal/detection -count=1 -run 'TheBench$$'
	COUNTERSIGN_DETECTION_BENCH=$(CURDIR)/docs/detection-bench.md $(PG) go test ./internal/server -count=1 -v -timeout 30m -run TheBenchOfContainment

lint: ## gofmt, go vet, golangci-lint
	@test -z "$$(gofmt -l cmd client internal conformance containment test 2>/dev/null)" || { gofmt -l cmd client internal conformance containment test; echo 'run gofmt -w on these'; exit 1; }
	go vet ./...
	go run $(LINT) run ./...

verify: build lint test test-race ## all that CI does
	go mod verify
	@git diff --exit-code -- go.mod go.sum

clean: ## remove what building made
	rm -rf bin
