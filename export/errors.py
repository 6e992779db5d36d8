"""What exporting and importing raise on purpose."""

from compositor_backend.errors import LipstreamError


class ExportError(LipstreamError):
    """A file is not what it should be, or an exported graph is not equal to its network."""
