# `make bench`: the ledger by itself, then the whole beside its peers in one run, then AWS, emulated. About fifteen minutes,
# and as long again to build the AWS SDKs the first time.
#
#   make bench BENCH_ARGS="--quick"            a smoke run
#   make bench BENCH_ARGS="--json bench.json"  also as JSON
#   make bench BENCH_ARGS="--help"             what else there is
#   make bench-aws AWS_BUILD=dev               AWS alone, in the build that the tests have made

BENCH_ARGS ?=
AWS_ARGS ?=
OBJECTS_ARGS ?=
AWS_BUILD ?= bench
PYTHON ?= python3
# Debian puts it where a user's PATH does not look.
NATS_SERVER = $(shell PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v nats-server)
ROOTLY = $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: bench bench-ledger bench-state bench-metrics bench-simulator bench-peers bench-objects bench-nats bench-aws

bench: bench-ledger bench-state bench-metrics bench-simulator bench-peers bench-objects bench-aws

# Objects through a link, and beside it rclone between the same two stores. Four minutes.
bench-objects: tools
	cargo build --release --no-default-features
	$(PYTHON) benches/peers/objects.py $(OBJECTS_ARGS)

# Events that all regions' hubs hold at the end, a second of wall time, on all cores.
bench-simulator:
	cargo build --release --no-default-features
	target/release/hubweave simulate --seeds 0..500 --jobs "$$(nproc)"
	target/release/hubweave simulate --world managed --seeds 0..200 --jobs "$$(nproc)"

bench-ledger:
	cargo bench --no-default-features --bench ledger -- --quick

# Merging documents beside the bare types of the crdts crate, and requests to documents beside events.
bench-state:
	cargo bench --no-default-features --bench state -- --quick

# What counting costs beside an event's path, and how long a scrape takes.
bench-metrics:
	cargo bench --no-default-features --bench metrics

bench-peers: bench-nats
	cargo build --release --no-default-features
	$(PYTHON) benches/peers $(BENCH_ARGS)

# Two regions on MiniStack, and beside them a loop of the same calls without a ledger. About a minute once it is built.
# DynamoDB has a process of its own; AWS_ARGS=--one-emulator puts all into one.
bench-aws: tools
	cargo bench --profile $(AWS_BUILD) --bench aws -- $(AWS_ARGS)

# Only the program is wanted: the package's service must not start.
bench-nats:
ifeq ($(NATS_SERVER),)
	$(ROOTLY) apt-get install -y --no-install-recommends nats-server || \
		echo "nats-server could not be installed: hubweave is measured without a peer" >&2
	if command -v systemctl >/dev/null; then $(ROOTLY) systemctl disable --now nats-server || true; fi
endif
