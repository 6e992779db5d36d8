"""``python -m server.probe``: whether a Triton that no launcher watches serves, for a container's health check.

A small request goes to each Python model. Where the answer is that its process is dead, which Triton 2.51 never mends,
``--end PID`` ends that process, the container's first, so that the container's restart policy brings all of it back.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from compositor_backend.contract import PYTHON_MODELS
from server.errors import ServerError
from server.triton_http import TritonHttp

_TIMEOUT_S = 10.0


def main(arguments: Sequence[str]) -> int:
    """0 if every Python model answers, 1 with one sentence on stderr if not."""
    parser = argparse.ArgumentParser(prog="python -m server.probe", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS")
    parser.add_argument("--http-port", type=int, default=8000, metavar="N")
    parser.add_argument("--metrics-port", type=int, default=8002, metavar="N")
    parser.add_argument("--end", type=int, metavar="PID", help="what to end (SIGINT) where a process is dead")
    options = parser.parse_args(arguments)
    http = TritonHttp(options.host, options.http_port, options.metrics_port, _TIMEOUT_S)
    try:
        dead = [model.name for model in PYTHON_MODELS if not http.lives(model.name)]
    except ServerError as error:
        print(f"probe: {error}", file=sys.stderr)  # noqa: T201 - a command line
        return 1
    if not dead:
        return 0
    print(f"probe: a process of {' and '.join(dead)} is dead", file=sys.stderr)  # noqa: T201 - a command line
    if options.end is not None:
        os.kill(options.end, signal.SIGINT)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
