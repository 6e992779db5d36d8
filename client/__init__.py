"""The Python client of Lipstream: speech to a Triton server, talking frames back."""

from client._client import AvatarState, LipstreamClient
from client._memory import MemoryTransport
from client._pool_figures import PoolFigures
from client._report import SpeakReport, StepTimes, speak_to_sinks, step_times
from client._requests import Frame
from client._server_memory import MemoryReader, MemoryUse
from client._session import Session
from client._settings import DEFAULT_URL, Keepalive, PoolSettings, RetryPolicy, Timeouts
from client._speech import frame_count
from client._transport import ModelState, ModelStatistics, Transport
from client.audio import Recording, paced, read_audio, to_pcm, to_recording
from client.errors import (
    AudioError,
    AvatarIdError,
    AvatarNotFoundError,
    AvatarNotLoadedError,
    ClientError,
    LipstreamError,
    PoolFullError,
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
from client.residency import AvatarPool, Lease
from client.sinks import JpegFolderSink, Mp4Sink, NullSink, Sink

__all__ = [
    "DEFAULT_URL",
    "AudioError",
    "AvatarIdError",
    "AvatarNotFoundError",
    "AvatarNotLoadedError",
    "AvatarPool",
    "AvatarState",
    "ClientError",
    "Frame",
    "JpegFolderSink",
    "Keepalive",
    "Lease",
    "LipstreamClient",
    "LipstreamError",
    "MemoryReader",
    "MemoryTransport",
    "MemoryUse",
    "ModelState",
    "ModelStatistics",
    "Mp4Sink",
    "NullSink",
    "PoolFigures",
    "PoolFullError",
    "PoolSettings",
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
    "StepTimes",
    "Timeouts",
    "Transport",
    "frame_count",
    "paced",
    "read_audio",
    "speak_to_sinks",
    "step_times",
    "to_pcm",
    "to_recording",
]
