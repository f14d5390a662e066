# Everything a developer runs. `make` lists the targets.

export CARGO_TERM_COLOR ?= auto
target  := $(or $(CARGO_TARGET_DIR),target)
binary  := $(target)/debug/sealwright

.DEFAULT_GOAL := help
.PHONY: help setup build demo kryoptic test lint bench test-nightly

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing on this machine (Debian, Ubuntu)
	@scripts/setup

build: ## build the sealwright binary (development profile)
	cargo build --locked -p cli --bin sealwright

demo: setup build ## the whole life of one device, narrated, in an empty directory
	@SEALWRIGHT_BIN=$(binary) scripts/demo

kryoptic: setup ## the second token of the tests and an openssl with ML-DSA, once (some minutes)
	@scripts/kryoptic

test: setup build kryoptic ## every test: unit, property, whole system, foreign verifiers
	cargo test --locked --workspace --no-fail-fast

lint: ## formatting, clippy, documentation, dependencies; any warning fails
	cargo fmt --all --check
	cargo fmt --manifest-path tests/kryoptic/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	scripts/check-dependencies
	@if command -v cargo-deny >/dev/null; then cargo deny --locked check licenses bans sources; \
	else echo "lint: cargo-deny is not installed; scripts/check-dependencies has checked the core of deny.toml"; fi

bench: setup ## a release build on this machine: the token layer beside bare C_Sign, then the whole service
	cargo build --locked --release -p cli --bin sealwright
	cargo bench --locked -p hsm
	SEALWRIGHT_BIN=$(target)/release/sealwright cargo run --locked --release -p tests --bin bench

test-nightly: setup build kryoptic ## the long runs: every token fault, 200 kills, 20 power cuts (the latter need root)
	SEALWRIGHT_FAULTS=full cargo test --locked -p hsm --test faults -- --nocapture
	SEALWRIGHT_FAULTS=full cargo test --locked -p tests --test hsm_faults -- --nocapture
	SEALWRIGHT_KILLS=200 cargo test --locked -p tests --test crash -- --nocapture
	SEALWRIGHT_INIT_KILLS=200 cargo test --locked -p tests --test init_kills -- --nocapture
	SEALWRIGHT_BIN=$(binary) tests/power-cut 20
