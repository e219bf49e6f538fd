# The two commands: `make run` and `make test`. Each does all of its own set-up.
# Builds go to one shared target folder, so that several clones (and CI) reuse each other's dependencies.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/millrace-target
DATA_DIR ?= ./millrace-data

.PHONY: run demo test check bench verify chaos fuzz k8s release

run: release ## build the release binary and start everything in one process
	@exec "$(CARGO_TARGET_DIR)/release/millrace" --data-dir "$(DATA_DIR)"

demo: release ## in a second terminal: ship this machine's own logs and show answers
	@MILLRACE="$(CARGO_TARGET_DIR)/release/millrace" bash docs/demo.sh

test: ## everything that CI checks: format, lints, docs, all tests, real clients, kills
	@bash .ci/test

check: ## the quick half of `make test`: format, lints, docs
	@bash .ci/test check

bench: release ## ingest, storage and query costs, as one table
	@cargo build --quiet --release --locked -p millrace-loadtest
	@"$(CARGO_TARGET_DIR)/release/loadtest" bench

verify: release ## 1,000 kills while clients push; every acknowledged line must be there exactly once
	@cargo build --quiet --release --locked -p millrace-loadtest
	@"$(CARGO_TARGET_DIR)/release/loadtest" verify --kills 1000

chaos: release ## an hour of faults in a cluster on real Kafka; every acknowledged line must be there exactly once
	@bash .ci/setup test
	@cargo build --quiet --release --locked -p millrace-loadtest
	@MILLRACE_TEST_KAFKA=$$(bash loadtest/kafka/fetch) "$(CARGO_TARGET_DIR)/release/loadtest" chaos --minutes 60

k8s: ## everything in k8s/: the chart in all sizes and options, alerts, dashboards, derived files
	@bash k8s/test

fuzz: ## a minute for each parser of bytes from outside (needs nightly Rust and cargo-fuzz)
	@for target in schemas:record crates/logql:parse ingest-gateway:push; do \
	  (cd "$${target%%:*}" && cargo +nightly fuzz run "$${target##*:}" -- -max_total_time=60) || exit 1; done

release:
	@bash .ci/setup build
	@cargo build --release --locked -p millrace
