# `make bench`: the ledger by itself, then the whole beside its peers in one run. About ten minutes.
#
#   make bench BENCH_ARGS="--quick"            a smoke run
#   make bench BENCH_ARGS="--json bench.json"  also as JSON
#   make bench BENCH_ARGS="--help"             what else there is

BENCH_ARGS ?=
PYTHON ?= python3
# Debian puts it where a user's PATH does not look.
NATS_SERVER = $(shell PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v nats-server)
ROOTLY = $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: bench bench-ledger bench-simulator bench-peers bench-nats

bench: bench-ledger bench-simulator bench-peers

# Events that all regions' hubs hold at the end, a second of wall time, on all cores.
bench-simulator:
	cargo build --release --no-default-features
	target/release/hubweave simulate --seeds 0..500 --jobs "$$(nproc)"
	target/release/hubweave simulate --world managed --seeds 0..200 --jobs "$$(nproc)"

bench-ledger:
	cargo bench --no-default-features --bench ledger -- --quick

bench-peers: bench-nats
	cargo build --release --no-default-features
	$(PYTHON) benches/peers $(BENCH_ARGS)

# Only the program is wanted: the package's service must not start.
bench-nats:
ifeq ($(NATS_SERVER),)
	$(ROOTLY) apt-get install -y --no-install-recommends nats-server || \
		echo "nats-server could not be installed: hubweave is measured without a peer" >&2
	if command -v systemctl >/dev/null; then $(ROOTLY) systemctl disable --now nats-server || true; fi
endif
