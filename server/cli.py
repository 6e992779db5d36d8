"""``python -m server``: start Triton, and serve until a signal comes or a command ends."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from compositor_backend.errors import LipstreamError
from compositor_backend.settings import AVATARS_VARIABLE, DEFAULT_AVATARS_NAME
from server.errors import StartError
from server.launcher import TritonServer
from server.settings import (
    DEFAULT_GRPC_PORT,
    DEFAULT_HEALTH_PORT,
    DEFAULT_HTTP_PORT,
    DEFAULT_METRICS_PORT,
    ROOT,
    ServerSettings,
    check_ports,
)
from server.watchdog.endpoint import HealthEndpoint
from server.watchdog.systemd import notify
from server.watchdog.watch import Watch

_COMMAND_STOPS_S = 10.0
_PING_S = 1.0
_EPILOG = """\
After `--` may follow a command: it runs while Triton serves, with LIPSTREAM_URL (gRPC, host:port),
LIPSTREAM_HTTP_URL and LIPSTREAM_METRICS_URL in its environment; when it ends Triton stops, and its
exit status is the launcher's. Without a command Triton serves until Ctrl-C or SIGTERM.

Should Triton or a process of its models die or hang, Triton is started again. How the server is can be read at the
health address: /live, /ready, and / for both and more as JSON. Further settings of the models are read from the
environment (compositor_backend/settings.py).
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; the exit status is 0, 1 for a failure, or that of the command after ``--``."""
    options, command = parse(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s")
    _end_on_signals()
    try:
        settings = settings_from(options)
        check_ports({**settings.ports, "health_port": options.health_port})
        return _serve(settings, command, options)
    except LipstreamError as error:
        print(f"server: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the command that follows ``--``."""
    own, command = list(arguments), []
    if "--" in own:
        at = own.index("--")
        own, command = own[:at], own[at + 1 :]
    return _parser().parse_args(own), command


def settings_from(options: argparse.Namespace) -> ServerSettings:
    """The settings that the options stand for."""
    return ServerSettings(
        model_repository=options.model_repository,
        avatars=options.avatars,
        host=options.host,
        grpc_port=options.grpc_port,
        http_port=options.http_port,
        metrics_port=options.metrics_port,
        gpu=options.gpu,
        networks_mib=options.networks_mib,
        scratch_mib=options.scratch_mib,
        cache=options.cache,
        log=options.log,
        verbose=options.verbose,
        start_timeout_s=options.start_timeout,
        triton_options=tuple(options.triton_option),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Serve avatars from the Triton of the nvidia-pytriton wheel.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_models(parser)
    _add_addresses(parser)
    parser.add_argument("--gpu", action="store_true", help="keep the production configs (GPU)")
    parser.add_argument(
        "--networks-mib",
        type=int,
        metavar="N",
        help="networks that one process keeps in memory, in MiB of their files (the models' own parameter)",
    )
    parser.add_argument(
        "--scratch-mib",
        type=int,
        metavar="N",
        help="activations of one run of a network, in MiB (the models' own parameter)",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where optimised graphs are kept (the user's cache folder)"
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="Triton's log (kept only if the start fails)"
    )
    parser.add_argument("--verbose", type=int, default=0, metavar="N", help="Triton's verbosity (0)")
    parser.add_argument(
        "--start-timeout", type=float, default=120.0, metavar="S", help="seconds to wait until ready (120)"
    )
    parser.add_argument(
        "--triton-option",
        action="append",
        default=[],
        metavar="--FLAG=VALUE",
        help="passed to tritonserver as it is",
    )
    parser.add_argument(
        "--no-restart",
        action="store_true",
        help="end when Triton ends, for a service manager that restarts it",
    )
    parser.add_argument("--hints", action="store_true", help="print three lines that talk to the server")
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--avatars",
        type=Path,
        default=Path(os.environ.get(AVATARS_VARIABLE) or DEFAULT_AVATARS_NAME),
        metavar="DIR",
        help="the folder of avatars, which need not exist yet (LIPSTREAM_AVATARS, or avatars)",
    )
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=ROOT / "model_repository",
        metavar="DIR",
        help="the models that serve all avatars (model_repository)",
    )


def _add_addresses(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (127.0.0.1)"
    )
    ports = (
        ("--grpc-port", DEFAULT_GRPC_PORT),
        ("--http-port", DEFAULT_HTTP_PORT),
        ("--metrics-port", DEFAULT_METRICS_PORT),
        ("--health-port", DEFAULT_HEALTH_PORT),
    )
    for name, default in ports:
        parser.add_argument(
            name, type=int, default=default, metavar="N", help=f"{default}; 0 for any free one"
        )


def _serve(settings: ServerSettings, command: Sequence[str], options: argparse.Namespace) -> int:
    with TritonServer(settings) as triton:
        try:
            if options.no_restart:
                with _pinging(), _announced():
                    return _work(triton, command, options, health_url=None)
            with _watched(triton, options) as health_url, _announced():
                return _work(triton, command, options, health_url)
        finally:
            _ignore_signals()


@contextmanager
def _announced() -> Iterator[None]:
    """Within the block systemd takes us for serving."""
    notify("READY=1")
    try:
        yield
    finally:
        _ignore_signals()
        notify("STOPPING=1")


@contextmanager
def _pinging() -> Iterator[None]:
    """Within the block systemd hears that we live; where Triton is watched the watch says so."""
    stop = threading.Event()

    def ping() -> None:
        while not stop.wait(_PING_S):
            notify("WATCHDOG=1")

    thread = threading.Thread(target=ping, name="ping")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _watched(triton: TritonServer, options: argparse.Namespace) -> Iterator[str]:
    """Within the block Triton is started again when it dies; gives the health endpoint's address."""
    watch = Watch(triton, on_look=lambda: notify("WATCHDOG=1"))
    endpoint = HealthEndpoint(options.host, options.health_port, lambda: watch.health)
    stop = threading.Event()
    thread = threading.Thread(target=watch.run, args=[stop], name="watch")
    try:
        endpoint.open()
        thread.start()
        yield f"http://{triton.reachable_host}:{endpoint.port}"
    finally:
        _ignore_signals()
        stop.set()
        if thread.ident is not None:
            thread.join()
        endpoint.close()


def _work(
    triton: TritonServer, command: Sequence[str], options: argparse.Namespace, health_url: str | None
) -> int:
    """Serve until the command ends, or if there is none, for ever; without restarts until Triton ends."""
    _print_addresses(triton, health_url)
    if options.hints:
        _print_hints(triton)
    if command:
        return _run(command, triton)
    if health_url is None:
        triton.wait()
    threading.Event().wait()
    return 0


def _run(command: Sequence[str], triton: TritonServer) -> int:
    environment = {
        **os.environ,
        "LIPSTREAM_URL": triton.grpc_url,
        "LIPSTREAM_HTTP_URL": triton.http_url,
        "LIPSTREAM_METRICS_URL": triton.metrics_url,
    }
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise StartError(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        status = process.wait()
    except KeyboardInterrupt:
        _stop(process)
        raise
    return status if status >= 0 else 128 - status


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the command; for good if it does not want to, since a second Ctrl-C is not heard any more."""
    process.terminate()
    try:
        process.wait(_COMMAND_STOPS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _print_addresses(triton: TritonServer, health_url: str | None) -> None:
    print(f"gRPC     {triton.grpc_url}")
    print(f"HTTP     {triton.http_url}")
    if health_url is not None:
        print(f"health   {health_url}")
    print(f"metrics  {triton.metrics_url}", flush=True)


def _print_hints(triton: TritonServer) -> None:
    folder = triton.settings.avatars
    manifests = sorted(folder.glob("*/avatar.json")) if folder is not None else []
    avatar = manifests[0].parent.name if manifests else "AVATAR"
    speech = "export/demo/speech/hello.flac"
    print("\nTalk to it:")
    print(
        f"  python -m client speak --url {triton.grpc_url} --avatar {avatar} --audio {speech} "
        "--out out/frames --mp4 out/speech.mp4"
    )
    print(f"  python -m client avatars --url {triton.grpc_url}")
    print(f"  curl --fail {triton.http_url}/v2/health/ready && echo ready", flush=True)


def _end_on_signals() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell that starts us in the background has us ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)


def _ignore_signals() -> None:
    """From here on. Stopping takes its time, but not for ever: it is not to be interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    _ignore_signals()
    raise KeyboardInterrupt
