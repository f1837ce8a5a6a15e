# make test: everything that must pass.  make bench: ratios beside peers.  make soak: for long.  make demo: three regions.

SHELL := /bin/bash
.DELETE_ON_ERROR:

VENV := .venv
PYTHON := python3

.PHONY: test bench soak demo tools clean

test: tools
	@$(PYTHON) tests/run.py

# What the tests need on a fresh machine, in virtual environments of this folder: the AWS clients and the emulator, and what
# plays AWS's troubles, which needs other versions; and rclone.
tools: $(VENV)/.installed $(VENV)/microburst/.installed
	@command -v rclone > /dev/null || { apt-get update --quiet && apt-get install --yes --no-install-recommends rclone; }

$(VENV)/.installed: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
	touch $@

$(VENV)/microburst/.installed: tests/requirements-microburst.txt $(VENV)/.installed
	$(PYTHON) -m venv $(VENV)/microburst
	$(VENV)/microburst/bin/pip install --quiet --disable-pip-version-check --requirement tests/requirements-microburst.txt
	touch $@

demo:
	cargo demo

# Many seeds of the simulator, each experiment with the alerts that it sets off, then many rounds of kill -9 and partitions under
# load, each with verify at its end:
# make soak SOAK_SEEDS=0..100000 SOAK="--minutes 5 --kills 20"; or drills in a row: SOAK="--minutes 0 --drills 50".
SOAK_SEEDS ?= 0..20000

soak: tools
	cargo build --release --no-default-features
	target/release/hubweave simulate --seeds $(SOAK_SEEDS) --jobs "$$(nproc)"
	target/release/hubweave simulate --world managed --seeds $(SOAK_SEEDS) --jobs "$$(nproc)"
	$(VENV)/bin/python tests/dashboards.py --drills --binary target/release/hubweave
	$(PYTHON) tests/soak.py $(SOAK)

clean:
	cargo clean
	rm -rf $(VENV) data

-include bench.mk
