"""The Python client of Lipstream: speech to a Triton server, talking frames back."""

from client._catalog import AvatarInfo
from client._client import LipstreamClient
from client._memory import MemoryTransport
from client._report import SpeakReport, speak_to_sinks
from client._requests import Frame
from client._session import Session
from client._settings import DEFAULT_URL, NO_RETRY, Keepalive, RetryPolicy, Timeouts
from client._speech import frame_count
from client._transport import Transport
from client.audio import Recording, paced, read_audio, to_pcm, to_recording
from client.errors import (
    AudioError,
    AvatarIdError,
    AvatarNotFoundError,
    ClientError,
    LipstreamError,
    RequestCancelledError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    ServerFaultError,
    ServerUnavailableError,
    SessionError,
    SettingsError,
    SinkError,
)
from client.sinks import JpegFolderSink, Mp4Sink, NullSink, Sink

__all__ = [
    "DEFAULT_URL",
    "NO_RETRY",
    "AudioError",
    "AvatarIdError",
    "AvatarInfo",
    "AvatarNotFoundError",
    "ClientError",
    "Frame",
    "JpegFolderSink",
    "Keepalive",
    "LipstreamClient",
    "LipstreamError",
    "MemoryTransport",
    "Mp4Sink",
    "NullSink",
    "Recording",
    "RequestCancelledError",
    "RequestRefusedError",
    "RequestTimeoutError",
    "RetryPolicy",
    "ServerBusyError",
    "ServerError",
    "ServerFaultError",
    "ServerUnavailableError",
    "Session",
    "SessionError",
    "SettingsError",
    "Sink",
    "SinkError",
    "SpeakReport",
    "Timeouts",
    "Transport",
    "frame_count",
    "paced",
    "read_audio",
    "speak_to_sinks",
    "to_pcm",
    "to_recording",
]
