"""Every error that the client raises on purpose.

    LipstreamError                       (compositor_backend.errors)
    ├── AvatarIdError                    not an avatar id; raised before anything is sent
    ├── SettingsError                    a setting has no valid value
    └── ClientError                      base of all below
        ├── AudioError                   the speech: unreadable, empty, of a wrong type or shape
        ├── SinkError                    frames cannot be written; names the file, keeps what is written
        ├── SessionError                 a call that the session's or client's state does not allow
        └── ServerError                  the server's side; knows its address and the frames delivered
            ├── ServerUnavailableError   retried: no server answers, or the connection or a process broke
            ├── ServerBusyError          retried, shortly: more to do than it can; knows when to try again
            ├── RequestTimeoutError      no answer within the time allowed; the next server is asked
            ├── RequestCancelledError    the client was closed meanwhile
            ├── AvatarNotFoundError      the server has no such avatar
            ├── RequestRefusedError      the server says what is wrong with the request, in one sentence
            └── ServerFaultError         a damaged avatar, or a defect: the server's log has the rest

Each one's text is one sentence meant for a person. What the libraries below raised is its ``__cause__``.
"""

from __future__ import annotations

import math

from compositor_backend.errors import AvatarIdError, LipstreamError, SettingsError

__all__ = [
    "AudioError",
    "AvatarIdError",
    "AvatarNotFoundError",
    "ClientError",
    "LipstreamError",
    "RequestCancelledError",
    "RequestRefusedError",
    "RequestTimeoutError",
    "ServerBusyError",
    "ServerError",
    "ServerFaultError",
    "ServerUnavailableError",
    "SessionError",
    "SettingsError",
    "SinkError",
]


class ClientError(LipstreamError):
    """Base of the client's own errors."""


class AudioError(ClientError):
    """Speech that cannot be read or sent: not audio, empty, of a wrong type or shape."""


class SinkError(ClientError):
    """Frames could not be written; the text names the file. Frames written before are kept."""


class SessionError(ClientError):
    """A call that does not fit the session's or the client's state, such as audio after its end."""


class ServerError(ClientError):
    """Something went wrong at the server or on the way to it.

    `url` is the server's address. `frames_delivered` is set when an utterance was under way: so many of its
    frames had been handed over, all of them good.
    """

    def __init__(self, sentence: str, *, url: str) -> None:
        super().__init__(sentence)
        self.url = url
        self.frames_delivered: int | None = None

    def __str__(self) -> str:
        sentence = super().__str__()
        if self.frames_delivered is None:
            return sentence
        return f"{sentence} ({self.frames_delivered} frames had been delivered)"


class ServerUnavailableError(ServerError):
    """No server answers at that address, the connection broke, or a process of the server died.

    The client has sent the request again for as long as `RetryPolicy` says; it may be sent once more.
    """


class RequestTimeoutError(ServerError):
    """The server did not answer within the time allowed."""


class RequestCancelledError(ServerError):
    """The client was closed while the request was under way."""


class AvatarNotFoundError(ServerError):
    """The server has no avatar of that id."""


class ServerBusyError(ServerError):
    """The server has more to do than it can.

    `retry_after_s` is when it may be worth another try; the sentence ends with it.
    """

    def __init__(self, sentence: str, *, url: str, retry_after_s: float) -> None:
        super().__init__(f"{sentence}; try again in about {math.ceil(retry_after_s)} s", url=url)
        self.retry_after_s = retry_after_s


class RequestRefusedError(ServerError):
    """The request is at fault; the text is the server's own sentence. Sending it again changes nothing."""


class ServerFaultError(ServerError):
    """The server failed, or the avatar is damaged there; the text is what it said, and its log has the rest."""
