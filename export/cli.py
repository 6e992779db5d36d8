"""The command line of `export`: ``python -m export COMMAND …``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compositor_backend.errors import LipstreamError
from export.networks.families import AUDIO_MODES, FAMILIES

if TYPE_CHECKING:
    from export.limits import Parity

# Each module adds its commands with `add_commands`; none of them imports torch before its command runs.
_COMMAND_MODULES = (
    "export.avatar_cli",
    "export.archive_cli",
    "export.clone_cli",
    "export.import_cli",
    "export.prepare_cli",
    "export.engine_cli",
    "export.demo.avatar_cli",
    "export.demo.cli",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it went well, 1 with one sentence on stderr if not, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_network_commands(commands)
    for name in _COMMAND_MODULES:
        importlib.import_module(name).add_commands(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except LipstreamError as error:
        print(f"error: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRAS:
            raise
        extra = _EXTRAS[(error.name or "").split(".")[0]]
        print(f"error: this needs {error.name}: pip install 'lipstream[{extra}]'", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    return 1


_EXTRAS = {
    "onnx": "export",
    "torch": "export",
    "piper": "train",
    "espeakng_loader": "train",
    "scipy": "train",
    "resvg_py": "demo",
}


def _add_network_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    unet = commands.add_parser("unet", help="export a lip-sync U-Net's checkpoint to ONNX, compared with it")
    unet.add_argument("--checkpoint", type=Path, required=True, metavar="P", help="the .pth file")
    unet.add_argument(
        "--family", choices=tuple(FAMILIES), required=True, help="side of the crop, or of the picture"
    )
    unet.add_argument("--audio", choices=AUDIO_MODES, required=True, help="the features it was trained on")
    unet.add_argument("--out", type=Path, required=True, metavar="F", help="the .onnx file to write")
    unet.set_defaults(run=_run_unet)
    encoder = commands.add_parser(
        "encoder", help="export an audio encoder's checkpoint to ONNX, compared with it"
    )
    encoder.add_argument("--checkpoint", type=Path, required=True, metavar="P", help="the .pth file")
    encoder.add_argument("--out", type=Path, required=True, metavar="F", help="the .onnx file to write")
    encoder.set_defaults(run=_run_encoder)


def _run_unet(options: argparse.Namespace) -> None:
    from export.onnx_export import export_unet

    _report(options.out, export_unet(options.checkpoint, options.family, options.audio, options.out))


def _run_encoder(options: argparse.Namespace) -> None:
    from export.onnx_export import export_encoder

    _report(options.out, export_encoder(options.checkpoint, options.out))


def _report(out: Path, parity: Parity) -> None:
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB; {parity}")
