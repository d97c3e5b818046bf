# What people type. Cargo knows how; `.ci/setup` installs what it needs.

# What `make run` serves.
ARGS = size=2G
PREFIX = /usr/local
export DESTDIR

CARGO = cargo
# Where rustup has just put it, before there is a new shell.
export PATH := $(HOME)/.cargo/bin:$(PATH)
# The versions that were tested, from Cargo.lock.
CARGO_FLAGS = --locked

AARCH64 = aarch64-unknown-linux-gnu

# What else the benchmarks are told, as BENCH="--only ^unix --rounds 5"; `python3 tests/bench run
# --help` tells. QUICK=1 takes three minutes, README=1 puts the summary into the README.
BENCH =
DRIVER = python3 -B tests/bench
NULL = target/release/null-server

.PHONY: run help build dist setup test lint check-format clippy doc deny components check-components check-aarch64
.PHONY: unit loom e2e test-metrics test-page package real-run install clean
.PHONY: bench bench-scale bench-filters bench-snapshots bench-noise bench-lookups instructions attacks micro

## run: serve a disk, of 2 GiB in memory unless ARGS says otherwise
run:
	$(CARGO) run $(CARGO_FLAGS) --release --quiet -- $(ARGS)

## help: this list
help:
	@sed -n 's/^## /  /p' Makefile

## build: the program, target/release/memnbd-host
build:
	$(CARGO) build $(CARGO_FLAGS) --release

## dist: the program as it is distributed: it starts quicker, and takes twice as long to build
dist:
	$(CARGO) build $(CARGO_FLAGS) --profile dist

## components: build those that are built in, after a change in plugin/ or wit/
components:
	.ci/components

## setup: install what is missing to build and test
setup:
	.ci/setup test

## test: everything that CI runs
test: lint unit loom e2e

## lint: formatting, clippy, documentation, licences and known faults of dependencies
lint: check-format clippy doc deny check-components check-aarch64

check-format:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path tests/embedding/Cargo.toml

clippy:
	$(CARGO) clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings

# The documentation is for those who work on this, so private items are part of it.
doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
		$(CARGO) doc $(CARGO_FLAGS) --workspace --no-deps --document-private-items

# What the dependencies must be is in deny.toml.
deny:
	.ci/deny

# The built-in components are what their sources give.
check-components:
	.ci/components check

# Everything compiles for the other processor that servers have, where its target can be had. OpenSSL's
# headers are those of this machine, for nothing is linked.
check-aarch64:
	if ls "$$(rustc --print target-libdir --target $(AARCH64))"/libcore-* >/dev/null 2>&1; then \
		PKG_CONFIG_ALLOW_CROSS=1 CC_aarch64_unknown_linux_gnu=cc \
		$(CARGO) check $(CARGO_FLAGS) --workspace --target $(AARCH64); \
	else echo "there is no target $(AARCH64) here, so it is not checked"; fi

# The parts by themselves; the components' logic runs natively here. And a project that uses the library.
unit:
	$(CARGO) test $(CARGO_FLAGS) --workspace --lib --bins
	$(CARGO) test $(CARGO_FLAGS) --workspace --doc
	$(CARGO) test $(CARGO_FLAGS) --manifest-path tests/embedding/Cargo.toml --target-dir target

## loom: every interleaving of a few threads, where locks and atomics bound what others hold
loom:
	$(CARGO) test $(CARGO_FLAGS) --manifest-path tests/loom/Cargo.toml --release

# The real program and real clients. Many tests wait for something, so there are more of them at a time than
# processors.
e2e:
	$(CARGO) test $(CARGO_FLAGS) --workspace --test e2e -- --test-threads $$(($$(nproc) + 1))

## test-metrics: let a real Prometheus scrape a server, and run the queries of the dashboard
test-metrics:
	.ci/setup metrics
	$(CARGO) build $(CARGO_FLAGS)
	/usr/bin/python3 -B tests/metrics/run target/debug/memnbd-host

## test-page: use the page of a server in a real Chromium
test-page:
	.ci/setup page
	$(CARGO) build $(CARGO_FLAGS)
	MEMNBD_HOST_PROGRAM=target/debug/memnbd-host node --test tests/page/

## package: the crates as they are published, each built from its package; ten minutes
package:
	$(CARGO) package $(CARGO_FLAGS) --workspace --allow-dirty

## real-run: a file system of some hundred MB there and back, with what was run and printed
real-run: build
	tests/real-run target/release/memnbd-host

## bench: compare with other servers by what clients do, an hour; QUICK=1 takes three minutes
bench: dist $(NULL)
	$(DRIVER) run $(if $(QUICK),--quick) $(if $(README),--readme) $(BENCH)

## bench-scale: see that cost does not grow with size, connections and exports
bench-scale: dist $(NULL)
	$(DRIVER) scale $(if $(QUICK),--quick) $(BENCH)

## bench-filters: compare each filter with nbdkit's, half an hour; QUICK=1 takes a few minutes
bench-filters: dist
	$(DRIVER) filters $(if $(QUICK),--quick) $(BENCH)

## bench-snapshots: time snapshots, clones and resets, ten minutes; QUICK=1 takes two
bench-snapshots: dist
	$(DRIVER) snapshots $(if $(QUICK),--quick) $(BENCH)

## bench-noise: what a tenant notices of another one at its limits, five minutes; QUICK=1 takes one
bench-noise: dist
	$(DRIVER) noise $(if $(QUICK),--quick) $(BENCH)

## bench-lookups: see that times tell a tenant nothing of names that are not its own, ten minutes
bench-lookups: dist
	$(DRIVER) lookups $(BENCH)

## instructions: count instructions per request, which hardly differ from run to run
instructions: dist
	$(DRIVER) instructions $(BENCH)

## attacks: measure what a neighbour notices of hostile components and clients, ten minutes
attacks: dist
	$(CARGO) build $(CARGO_FLAGS) -p memnbd-hostile
	$(DRIVER) attacks $(BENCH)

$(NULL): tests/bench/null_server.rs
	mkdir -p $(@D)
	rustc --edition 2024 -O -o $@ $<

## micro: time the parts by themselves
micro:
	$(CARGO) bench $(CARGO_FLAGS)

## install: the program, its manual, completion and systemd units below PREFIX; NBDKIT=1 also as nbdkit
install: dist
	host/program/dist/install $(if $(NBDKIT),--nbdkit) target/dist/memnbd-host $(PREFIX)

clean:
	$(CARGO) clean
