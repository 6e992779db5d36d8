"""What serving takes of a GPU's memory, and how many avatars stay resident: computed from an avatar's graph.

Each instance is a process with a context of its own, the activations of one run, and the weights of its resident
networks. What is computed is sized for half precision, which is what a GPU serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compositor_backend.manifest import NETWORK, NETWORK_FP16, Manifest
from compositor_backend.onnx_runtime import DEFAULT_SCRATCH_BYTES
from export.errors import ExportError
from export.graph_memory import weight_count

CONTEXT_BYTES = 450_000_000
"""A CUDA context with cuDNN and cuBLAS; 0.3 to 0.5 GB by NVIDIA's own figures, by driver. Not measured by us."""
WORKSPACE_BYTES = 64_000_000
"""What cuDNN takes for a convolution beside the activations; onnxruntime's default bound. Not measured by us."""
RESERVED = 0.08
"""Share of the memory that the driver, a display and fragmentation may take."""
_HALF_BYTES = 2
_MIB = 1 << 20


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by what they are for; `instances` processes have `rows` rows a run, and `resident` networks each."""

    memory_bytes: int
    instances: int
    context_bytes: int
    workspace_bytes: int
    row_bytes: int
    rows: int
    weight_bytes: int
    resident: int

    @property
    def scratch_bytes(self) -> int:
        """Activations of one run."""
        return self.row_bytes * self.rows

    @property
    def instance_bytes(self) -> int:
        """One instance, its networks included."""
        fixed = self.context_bytes + self.workspace_bytes + self.scratch_bytes
        return fixed + self.resident * self.weight_bytes

    @property
    def network_cache_mib(self) -> int:
        """What LIPSTREAM_NETWORK_CACHE_MIB has to be for so many networks."""
        return max(1, self.resident * self.weight_bytes // _MIB)


def plan_of(
    folder: Path, memory_bytes: int, instances: int = 8, context_bytes: int = CONTEXT_BYTES
) -> MemoryPlan:
    """The plan for avatars like the one in `folder`; `ExportError` if not even one of them fits."""
    manifest = Manifest.load(folder)
    half = manifest.graphs.get(NETWORK_FP16)
    # Activations in half precision take half of what they take in float32.
    row_bytes = half.row_bytes if half is not None else manifest.graphs[NETWORK].row_bytes // 2
    return plan(
        memory_bytes,
        instances,
        row_bytes,
        _HALF_BYTES * weight_count(folder / f"{NETWORK}.onnx"),
        context_bytes,
    )


def plan(
    memory_bytes: int, instances: int, row_bytes: int, weight_bytes: int, context_bytes: int = CONTEXT_BYTES
) -> MemoryPlan:
    """The plan for networks that take `row_bytes` a row and `weight_bytes` each."""
    if instances < 1:
        raise ExportError(f"instances: expected 1 or more, got {instances}")
    rows = max(1, DEFAULT_SCRATCH_BYTES["GPU"] // row_bytes)
    fixed = context_bytes + WORKSPACE_BYTES + rows * row_bytes
    left = int(memory_bytes * (1 - RESERVED)) // instances - fixed
    if left < weight_bytes:
        raise ExportError(
            f"{instances} instances take {instances * (fixed + weight_bytes) / 1e9:.1f} GB with one avatar; "
            f"there are {memory_bytes * (1 - RESERVED) / 1e9:.1f} GB: use fewer instances"
        )
    return MemoryPlan(
        memory_bytes,
        instances,
        context_bytes,
        WORKSPACE_BYTES,
        row_bytes,
        rows,
        weight_bytes,
        left // weight_bytes,
    )
