from __future__ import annotations

import os

# onnxruntime reads it when it is imported, and some tests import it before any room of ours does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
