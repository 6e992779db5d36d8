"""Speech from files and arrays, converted to what the server takes: 16 kHz, mono, int16."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from client.errors import AudioError
from compositor_backend.contract import SAMPLE_RATE_HZ

INT16_SCALE = 32768.0
"""The contract reads int16 x as x/32768."""


@dataclass(frozen=True)
class Recording:
    """Mono sound, float32 in -1…1, at its own sample rate."""

    samples: NDArray[np.float32]
    rate_hz: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate_hz

    def resampled(self, rate_hz: int) -> NDArray[np.float32]:
        """The samples at another rate (soxr, HQ)."""
        if rate_hz == self.rate_hz:
            return self.samples
        return np.asarray(soxr.resample(self.samples, self.rate_hz, rate_hz, quality="HQ"), np.float32)

    def pcm(self, rate_hz: int = SAMPLE_RATE_HZ) -> NDArray[np.int16]:
        """The samples as int16, at the server's rate unless told otherwise; what is too loud is clipped."""
        scaled = np.rint(self.resampled(rate_hz) * INT16_SCALE)
        clipped: NDArray[np.int16] = np.clip(scaled, -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)
        return clipped


def read_audio(path: Path | str) -> Recording:
    """A sound file that libsndfile knows (WAV, FLAC, Ogg, MP3 …), its channels averaged to one."""
    path = Path(path)
    try:
        # Through memory, not by name: soundfile would take a name's ending for more than the content.
        samples, rate_hz = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float32", always_2d=True)
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror or error}") from error
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path} is not a sound file that libsndfile reads (WAV, FLAC, Ogg, MP3 …): {error.error_string}"
        ) from error
    return _mono(samples, rate_hz, str(path))


def to_recording(samples: NDArray[Any], rate_hz: int) -> Recording:
    """An array of sound, [samples] or [samples, channels], int16 or float in -1…1, as a `Recording`."""
    if rate_hz <= 0:
        raise AudioError(f"expected a sample rate above 0 Hz, got {rate_hz}")
    if samples.ndim not in (1, 2):
        raise AudioError(f"expected audio [samples] or [samples, channels], got {list(samples.shape)}")
    if samples.dtype == np.int16:
        samples = samples / np.float32(INT16_SCALE)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"expected audio int16, or float in -1…1, got {samples.dtype}")
    return _mono(samples[:, np.newaxis] if samples.ndim == 1 else samples, rate_hz, "the audio")


def to_pcm(samples: NDArray[Any], rate_hz: int) -> NDArray[np.int16]:
    """The same as the server's PCM: 16 kHz, mono, int16."""
    return to_recording(samples, rate_hz).pcm()


async def paced(
    pcm: NDArray[np.int16],
    *,
    block_ms: int = 20,
    clock: Callable[[], float] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[NDArray[np.int16]]:
    """16 kHz PCM in blocks, each as late as a microphone would give it; late blocks do not delay those after.

    `clock` gives seconds (the event loop's time by default).
    """
    clock = clock or asyncio.get_running_loop().time
    block = SAMPLE_RATE_HZ * block_ms // 1000
    started_s = clock()
    for start in range(0, len(pcm), block):
        spoken = min(start + block, len(pcm))
        await sleep(max(0.0, started_s + spoken / SAMPLE_RATE_HZ - clock()))
        yield pcm[start:spoken]


def _mono(samples: NDArray[np.floating[Any]], rate_hz: int, name: str) -> Recording:
    if samples.shape[1] == 0:
        raise AudioError(f"{name} has no channels; expected at least one")
    if len(samples) == 0:
        raise AudioError(f"{name} holds 0 samples; expected at least one")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} holds NaN or infinity; expected finite samples")
    return Recording(samples.mean(axis=1, dtype=np.float32).astype(np.float32), rate_hz)
