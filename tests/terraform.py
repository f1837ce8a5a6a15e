#!/usr/bin/env python3
"""What `provision --format terraform` prints, tried with Terraform itself: `python3 tests/terraform.py`.

For each of two regions, with every kind of resource in them: `terraform validate`, `apply` to the emulated AWS, a second
`plan` that must find nothing to change, `hubweave provision --diff` that must agree; then `hubweave doctor` over both; then
`destroy`, after which `--diff` must miss everything again.

Needs `terraform` with its provider hashicorp/aws, target/debug/hubweave and .venv (`make tools`). `make test` leaves it out, as
a fresh machine has no Terraform. `--plugins DIR` names a folder that mirrors providers, where the registry is out of reach.
Exit code 1 at the first thing that is not met.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REGIONS = ["eu-central-1", "us-east-1"]
PATIENCE = 30
SERVICES = ["events", "sqs", "dynamodb", "s3", "sts", "iam"]
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}

TOPOLOGY = """
[cluster]
name = "terraformed"

[[link]]
from = "eu-central-1"
to = "us-east-1"
pattern = { source = ["app"] }

[state.profile]
name = "register"
"""

REGION = """
[[region]]
name = "{region}"
backend = "aws"
[region.aws]
hub = "hub"
bucket = "payloads-{region}"
tags = {{ team = "payments" }}
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(what, command, expected=0, **options):
    """Runs a command; says `what` was met, or shows what the command said and ends."""
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, **options)
    if ended.returncode != expected:
        print(ended.stdout)
        sys.exit(f"not met: {what}: `{' '.join(map(str, command))}` ended with {ended.returncode}, not {expected}")
    print(f"met: {what}")
    return ended.stdout


def wait_for(url):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            return urllib.request.urlopen(url, timeout=2).read()
        except OSError:
            time.sleep(0.2)
    sys.exit(f"{url} does not answer")


def provider(region, url):
    return {
        "provider": {
            "aws": {
                "region": region,
                "s3_use_path_style": True,
                "skip_credentials_validation": True,
                "skip_metadata_api_check": True,
                "endpoints": [{service: url for service in SERVICES}],
            }
        }
    }


def try_it(hubweave, folder, url, plugins):
    environment = {**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": url}
    if plugins:
        settings = folder / "terraform.rc"
        settings.write_text(f'provider_installation {{\n  filesystem_mirror {{ path = "{Path(plugins).resolve()}" }}\n}}\n')
        environment["TF_CLI_CONFIG_FILE"] = str(settings)
    topology = folder / "topology.toml"
    topology.write_text(TOPOLOGY + "".join(REGION.format(region=region) for region in REGIONS))
    command = [hubweave, "--config", topology]
    for region in REGIONS:
        place = folder / region
        place.mkdir()
        text = subprocess.run(
            [*command, "provision", "--region", region, "--format", "terraform"],
            env=environment, check=True, stdout=subprocess.PIPE, text=True,
        ).stdout
        (place / "main.tf.json").write_text(text)
        (place / "provider.tf.json").write_text(json.dumps(provider(region, url)))

        def terraform(what, *arguments, place=place, region=region):
            run(f"{region}: {what}", ["terraform", *arguments], cwd=place, env=environment)

        terraform("the provider is there", "init", "-no-color", "-input=false")
        terraform("Terraform accepts the text", "validate", "-no-color")
        terraform("it can be applied", "apply", "-no-color", "-input=false", "-auto-approve")
        terraform("a second plan changes nothing", "plan", "-no-color", "-input=false", "-detailed-exitcode")
        diff = [*command, "provision", "--region", region, "--diff"]
        run(f"{region}: `provision --diff` finds what it would make itself", diff, env=environment)
    run("doctor finds nothing amiss", [*command, "doctor"], env=environment)
    for region in REGIONS:
        destroy = ["terraform", "destroy", "-no-color", "-input=false", "-auto-approve"]
        run(f"{region}: it can be destroyed", destroy, cwd=folder / region, env=environment)
        diff = [*command, "provision", "--region", region, "--diff"]
        rows = run(f"{region}: it is gone", diff, expected=1, env=environment).splitlines()[1:]
        left = [row for row in rows if " absent " not in row and not row.startswith("error")]
        if left or not rows:
            sys.exit(f"not met: {region}: nothing is left of it: {left}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=ROOT / "target/debug/hubweave", type=Path, help="a build with AWS in it")
    parser.add_argument("--plugins", metavar="DIR", help="a folder that mirrors Terraform's providers")
    given = parser.parse_args()
    port = free_port()
    emulator = subprocess.Popen(
        [ROOT / ".venv/bin/python", ROOT / "tests/emulated_aws.py"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "LOG_LEVEL": "ERROR"},
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/_ministack/health")
        with tempfile.TemporaryDirectory(prefix="hubweave-terraform-") as folder:
            try_it(given.binary.resolve(), Path(folder), f"http://127.0.0.1:{port}", given.plugins)
    finally:
        emulator.terminate()
        emulator.wait(PATIENCE)
    print("Terraform accepts, applies and destroys what hubweave prints")


if __name__ == "__main__":
    main()
