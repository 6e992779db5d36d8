"""Every error that Lipstream raises on purpose.

    LipstreamError                 base of all
    ├── RequestError               the caller of the server did something wrong; its text is the answer
    │   ├── AvatarIdError          AVATAR is no avatar id (``[a-z0-9][a-z0-9_-]{0,63}``)
    │   ├── UnknownAvatarError     a well-formed id that this server has no folder for
    │   ├── TensorError            a tensor's dtype, shape or values are not what the contract expects
    │   ├── NoSpeechError          the avatar takes ready audio features only
    │   ├── NoIdleFramesError      the avatar was imported without idle frames
    │   └── WrongNetworkError      the mouth, or the idle frames, were drawn by another avatar's network
    ├── BusyError                  the server has more to do than it can; its text is the answer, to be retried
    ├── PackError                  an avatar folder is incomplete, damaged or of an unknown format
    │   └── DamagedAvatarError     a request asked for such an avatar; its text is the answer, its cause is for the log
    ├── NetworkError               a graph does not open or run; becomes the cause of a `DamagedAvatarError`
    │   └── RefusedNetworkError    a graph whose opening ended processes, and is not tried for a while
    └── SettingsError              a setting has no valid value

What is not a `LipstreamError` is a defect: it is logged whole and answered with one opaque sentence.
"""


class LipstreamError(Exception):
    """Base of every error raised on purpose; its text is one sentence meant for a person."""


class RequestError(LipstreamError):
    """The request is at fault; the text names the tensor, what was expected and what came."""


class AvatarIdError(RequestError):
    """An avatar id that does not match the contract's pattern."""


class UnknownAvatarError(RequestError):
    """No avatar of that id is on this server."""


class TensorError(RequestError):
    """A tensor's dtype, shape or values break the contract."""


class NoSpeechError(RequestError):
    """The avatar has no audio encoder, and its network does not take mel: it cannot be sent speech."""


class NoIdleFramesError(RequestError):
    """The avatar's pack holds no idle frames; its ensemble gives them."""


class WrongNetworkError(RequestError):
    """The network's key differs from the one in the avatar's manifest."""


class BusyError(LipstreamError):
    """More is asked of the server than it can do now; the request may be sent again later."""


class PackError(LipstreamError):
    """An avatar folder is incomplete, damaged or of an unknown format."""


class DamagedAvatarError(PackError):
    """The avatar that a request asked for has such a folder; the text names the avatar only, `__cause__` the file."""


class NetworkError(LipstreamError):
    """A graph is missing, damaged, of another signature, or does not run."""


class RefusedNetworkError(NetworkError):
    """A graph whose opening has ended processes before."""


class SettingsError(LipstreamError):
    """A setting has no valid value."""
