# Sidekick. `make demo` shows a failover, `make test` is what continuous integration runs, `make bench` measures. They
# install what they need (Debian, as root) and may be repeated.

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
TOOLS := $(CURDIR)/target/tools
PJDFSTEST_VERSION := 0.2.2
FUZZ_SECONDS ?= 10

.PHONY: build demo test bench test-long check fmt setup-build setup-test setup-bench setup-check clean

build: setup-build ## all binaries under target/release/
	cargo build --release --locked --workspace --bins

demo: setup-test build ## a primary dies under load; nothing that was committed is lost
	target/release/lab demo

test: setup-test build $(TOOLS)/bin/pjdfstest ## everything, under 25 minutes
	cargo test --release --locked --workspace --no-fail-fast

bench: setup-bench build ## side by side with a plain disk and GlusterFS; QUICK=1 ends within 5 minutes, BENCH="--test untar" passes on
	target/release/bench $(if $(QUICK),--quick) $(BENCH)

test-long: setup-test build $(TOOLS)/bin/pjdfstest test-control ## hours: many seeds, many failovers
	SIDEKICK_LONG=1 cargo test --release --locked --workspace --no-fail-fast -- --include-ignored

# Would the failover tests notice a loss? With a secondary that loses what it answers they must.
.PHONY: test-control
test-control: setup-test build
	cargo build --release --locked -p skfs --features control-test --target-dir target/control
	cp target/release/lab target/release/skctl target/control/release/
	SIDEKICK_BIN=$(CURDIR)/target/control/release cargo test --release --locked -p sidekick-lab --features control --test control

check: setup-check ## format, lints, docs, dependencies, unit tests, fuzz targets
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	$(MAKE) deny
	cargo test --locked --workspace --lib --bins
	$(MAKE) fuzz

.PHONY: deny fuzz
deny: $(TOOLS)/bin/cargo-deny
	$(TOOLS)/bin/cargo-deny --locked check bans licenses sources

fuzz: $(TOOLS)/bin/cargo-fuzz
	cd fs && for target in $$(PATH="$(TOOLS)/bin:$$PATH" RUSTC_BOOTSTRAP=1 cargo fuzz list); do \
	  PATH="$(TOOLS)/bin:$$PATH" RUSTC_BOOTSTRAP=1 cargo fuzz run -s none $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

setup-build:
	@packaging/setup.sh build
setup-test:
	@packaging/setup.sh test
setup-bench:
	@packaging/setup.sh bench
setup-check:
	@packaging/setup.sh check

$(TOOLS)/bin/pjdfstest: | setup-test
	cargo install --quiet --locked --root $(TOOLS) pjdfstest --version $(PJDFSTEST_VERSION)
$(TOOLS)/bin/cargo-deny: | setup-check
	cargo install --quiet --locked --root $(TOOLS) cargo-deny
$(TOOLS)/bin/cargo-fuzz: | setup-check
	cargo install --quiet --locked --root $(TOOLS) cargo-fuzz

clean:
	cargo clean
