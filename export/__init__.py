"""From a checkpoint and frames to something Triton serves."""

import os

# onnxruntime reads this when it is imported: without it, some builds report their use to their maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
