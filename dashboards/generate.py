#!/usr/bin/env python3
"""Writes the Grafana dashboards in `grafana/`: `python3 generate.py`. With `--check` it says whether they are what it makes.

What is on them stands in `boards/`.
"""

import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from boards.aws import AWS  # noqa: E402
from boards.failover import FAILOVER  # noqa: E402
from boards.link import LINK_DETAIL  # noqa: E402
from boards.objects import OBJECTS  # noqa: E402
from boards.overview import OVERVIEW  # noqa: E402
from boards.state import STATE  # noqa: E402

FOLDER = Path(__file__).resolve().parent / "grafana"
FILES = {
    "overview.json": OVERVIEW,
    "link.json": LINK_DETAIL,
    "objects.json": OBJECTS,
    "state.json": STATE,
    "failover.json": FAILOVER,
    "aws.json": AWS,
}


def main():
    checks = sys.argv[1:] == ["--check"]
    stale = {path.name for path in FOLDER.glob("*.json")} ^ set(FILES) if checks else set()
    for name, made in FILES.items():
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        path = FOLDER / name
        if not checks:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.add(name)
    if stale:
        print(f"not what generate.py makes: {', '.join(sorted(stale))}; run it without --check", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
