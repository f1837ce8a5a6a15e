"""microburst in front of the emulated AWS: typed throttling, internal errors, resets, broken answers, black holes.

    .venv/microburst/bin/python tests/microburst_proxy.py UPSTREAM PORT

Ready when `GET /_microburst/health` answers. `GET /_microburst/rules` tells its rules and how often each has played, and
`POST` there replaces them. It tells of each call on its output. It has a virtual environment of its own
(see the Makefile), and ends when standard input does, so that it does not outlive the test that started it.
"""

import os
import sys
import threading

from microburst.cli import main


def end_with_standard_input():
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    upstream, port = sys.argv[1:]
    sys.exit(main(["--upstream", upstream, "--port", port, "--no-resign"]))
