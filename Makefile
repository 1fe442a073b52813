# Thin names over `cargo xtask`; each target installs what the machine lacks (scripts/setup) and says so.
.PHONY: help demo test test-vm test-battery soak lint bench fmt

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

demo: ## Build, bring a lab up from examples/, show what it does, leave it running
	scripts/setup demo
	cargo xtask demo

test: ## Pass all the tests
	scripts/setup test
	cargo xtask test

test-vm: ## Pass the tests of what talks to the kernel, SCTP's too, on Debian's kernel in a virtual machine
	scripts/setup test
	cargo xtask test-vm

test-battery: ## Pass the tests of what Services do on Debian's kernel in a virtual machine
	scripts/setup test
	cargo xtask test-battery

soak: ## Verify hundreds of traces in a row under load
	scripts/setup test
	cargo test -p seaway --test verified -- --ignored

lint: ## rustfmt, clippy with warnings denied, tidy
	cargo xtask lint

bench: ## Measure against the peers
	scripts/setup bench
	cargo xtask bench

fmt: ## Format the sources
	cargo fmt --all
