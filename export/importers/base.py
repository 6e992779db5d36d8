"""What every importer is: it looks whether a folder has its layout, and reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compositor_backend.geometry import Box
from export.avatar import NetworkSource
from export.errors import ExportError
from export.frames import FrameSource


class UndecidedError(ExportError):
    """Something that the folder does not tell; `option` of ``python -m export import`` says it, as one of `choices`."""

    def __init__(self, sentence: str, option: str, choices: Sequence[str]) -> None:
        super().__init__(f"{sentence}; say {' or '.join(f'{option} {choice}' for choice in choices)}")
        self.sentence = sentence
        self.option = option
        self.choices = tuple(choices)


@dataclass(frozen=True)
class Wanted:
    """What the user said; None leaves it to what lies there.

    `checkpoint` is the network's file, or a folder of checkpoints; `encoder` the audio encoder's file.
    `family` and `audio` are compared with the weights, and needed only where these do not tell.
    """

    checkpoint: Path | None = None
    encoder: Path | None = None
    audio: str | None = None
    family: str | None = None


@dataclass(frozen=True)
class Evidence:
    """A folder has a format's layout: by what, and, if it cannot be read all the same, the sentence that says why."""

    found: str
    lacks: str | None = None


@dataclass(frozen=True)
class Source:
    """An avatar as a folder holds it: frames and their face boxes (as many of each), the network, an audio encoder.

    `found`, `assumed` and `notes` are sentences for the user: what was seen there, what follows from it without being
    written anywhere, and what else is worth knowing.
    """

    frames: FrameSource
    boxes: Sequence[Box]
    network: NetworkSource
    encoder: Path | None = None
    found: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Importer(Protocol):
    """A module that knows one layout (its functions are these, without `self`)."""

    NAME: str
    """What ``--format`` calls it."""
    LABEL: str
    """What people call it, with an article."""
    LAYOUT: str
    """The files by which it is known, for the sentence that says what was looked for."""

    def detect(self, folder: Path, wanted: Wanted) -> Evidence | None:
        """Evidence that `folder` has this layout, by what its files hold; None if it has not."""

    def read(self, folder: Path, wanted: Wanted) -> Source:
        """What `folder` holds; `UndecidedError` asks for what cannot be known, `ExportError` says what is wrong."""
