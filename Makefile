# Targets: build, test, check, demo, bench. All work in a fresh clone on Debian, as root.
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
RELEASE := target/$(HOST)/release/xbuild

.PHONY: build test check demo bench packages

build:
	cargo build --release --target $(HOST) -p xbuild

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

packages:
	scripts/packages.sh

test: packages
	scripts/test.sh

demo: build
	scripts/demo.sh $(RELEASE)

bench: build
	scripts/bench.sh $(RELEASE)
