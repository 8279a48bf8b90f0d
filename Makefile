# The commands of this repository, the same for people and for CI.
# `make help` lists them. Everything is built in one profile (release), in one
# folder (target/).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# This machine's target: the guests' unit tests run here, not in WebAssembly.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
# A cargo for the guests' workspaces that checks and tests them natively.
NATIVE = CARGO_TARGET_DIR=$(CURDIR)/target cargo

.PHONY: help init setup guests build run compose down test fixtures bench fmt lint deny clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

init: ## make this machine able to build and test (once; needs root for Debian packages)
	@scripts/setup --tests

setup:
	@scripts/setup

guests: setup ## the four default handlers, into target/guests/
	@scripts/guests

build: guests ## the server, target/release/tidepool
	cargo build --release -p tidepool

run: build ## three regions on this machine, until Ctrl-C
	@target/release/tidepool dev

compose: ## three regions with CockroachDB and Redis in containers, see compose.yaml
	docker build -f Containerfile -t tidepool .
	docker compose up -d --wait tidepool-us-east-1 tidepool-us-west-1 tidepool-eu-west-1

down: ## stop and remove those containers; the data stays in its volume
	docker compose down

test: init ## everything that CI checks
	cargo fetch -q --locked
	cd guest-handlers && cargo fetch -q --locked
	cd tests/guests && cargo fetch -q --locked
	$(MAKE) guests lint fixtures
	scripts/guests --cargo-component
	cargo build --release --workspace --all-targets
	cd guest-handlers && $(NATIVE) test --release --target $(HOST)
	$(MAKE) deny
	cargo test --release --workspace

fixtures: setup ## the tests' misbehaving handlers, into target/fixtures/
	@scripts/guests --fixtures

bench: init guests fixtures ## requests per second and latencies, against bounds; BENCH="--servers --full" and the like
	cargo build --release --workspace --bins
	target/release/tidepool-bench $(BENCH)

fmt: ## format all sources
	cargo fmt --all
	cd guest-handlers && cargo fmt --all
	cd tests/guests && cargo fmt --all

lint: guests ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cd guest-handlers && cargo fmt --all --check
	cd tests/guests && cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	cd guest-handlers && $(NATIVE) clippy --release --target $(HOST) --all-targets -- -D warnings
	cd tests/guests && $(NATIVE) clippy --release --target $(HOST) --all-targets -- -D warnings

deny: ## licences and sources of all dependencies
	@PATH="$(CURDIR)/target/tools/bin:$$PATH"; \
	for workspace in . guest-handlers tests/guests; do \
		cargo deny --offline --manifest-path $$workspace/Cargo.toml \
			--config $(CURDIR)/deny.toml check licenses bans sources; \
	done

clean: ## what was built; tools that set-up fetched stay
	find target -mindepth 1 -maxdepth 1 ! -name tools -exec rm -rf {} +
