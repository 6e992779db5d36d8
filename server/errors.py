"""Errors of the server room.

LipstreamError
└── ServerError            base of this room's
    ├── InstallationError  something that Triton needs is not installed on this machine
    ├── StartError         Triton does not come up, or dies while it comes up
    ├── TritonSilentError  a running Triton does not answer
    └── TritonRefusedError its answer is an error
"""

from compositor_backend.errors import LipstreamError


class ServerError(LipstreamError):
    """Base of this room's errors; its text is one sentence meant for a person."""


class InstallationError(ServerError):
    """Something that Triton needs is not installed; the text says what to install."""


class StartError(ServerError):
    """Triton does not come up; the text gives the reason that its log holds."""


class TritonSilentError(ServerError):
    """Nothing answers at Triton's address, or not in time."""


class TritonRefusedError(ServerError):
    """Triton answered with an error; the text is Triton's own."""
