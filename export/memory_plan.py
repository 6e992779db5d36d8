"""What serving takes of a machine's memory, and how many avatars stay resident: computed from a network's graph.

Each instance of `lipsync` is a process: it needs what any process on that device needs, the arena that its runs take
their activations from, and each of its resident networks. Instances share nothing. On a GPU networks are sized for
half precision, on a CPU for float32, which is what each serves. The one instance of `audio_encoder` is counted as its
configs let it grow; the other models, which have no networks, are not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from compositor_backend.manifest import NETWORK, NETWORK_FP16, Manifest
from compositor_backend.onnx_runtime import DEFAULT_SCRATCH_BYTES, arena_region_bytes, rows_of
from export.arena_model import ArenaPolicy, ArenaUse
from export.errors import ExportError
from export.graph_memory import CPU_CHANNELS, GraphMemory, read_memory

GIB, MIB = 1 << 30, 1 << 20
CONTEXT_BYTES = 800_000_000
"""A CUDA context with its libraries' kernels and plans. Measured on an H100 with CUDA 13: 714 MB in a process alone."""
WORKSPACE_BYTES = 32 * MIB
"""What a convolution of cuDNN may take beside the activations; assumed."""
GRANULE_BYTES = 2 * MIB
"""What CUDA rounds an allocation up to."""
RESERVED = 0.08
"""Share of a GPU's memory that the driver, a display and rounding may take."""
PROCESS_BYTES = 45_000_000
"""A Python process with onnxruntime and numpy, before a network is opened; measured."""
SESSION_BYTES = 1_300_000
"""What a session on a CPU takes beside its weights; measured with the U-Nets of both families."""
ENCODER_CACHE_BYTES = {"GPU": 256 * MIB, "CPU": 128 * MIB}
ENCODER_SCRATCH_BYTES = {"GPU": 128 * MIB, "CPU": 64 * MIB}
"""`network_cache_mib` and `scratch_mib` of `audio_encoder`."""
_HALF_BYTES, _FLOAT_BYTES = 2, 4


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by what they are for; `instances` processes have `rows` rows a run, and `resident` networks each.

    `device` is "GPU" or "CPU". `process_bytes` is what an instance takes without a network, `workspace_bytes` what a
    convolution takes beside its tensors, `network_bytes` a resident network, of which `weight_bytes` are its weights,
    `file_bytes` its file. `row_bytes` is what lives of one row's activations, `arena` what a run of `rows` rows takes.
    `encoder_bytes` is the instance of `audio_encoder`.
    """

    device: str
    memory_bytes: int
    instances: int
    process_bytes: int
    workspace_bytes: int
    row_bytes: int
    rows: int
    arena: ArenaUse
    weight_bytes: int
    network_bytes: int
    file_bytes: int
    encoder_bytes: int
    resident: int = 0

    @property
    def scratch_bytes(self) -> int:
        """Activations of one run."""
        return self.row_bytes * self.rows

    @property
    def arena_bytes(self) -> int:
        """What the arena takes for that: of a GPU all its regions, of a machine the pages that are used."""
        return self.arena.taken if self.device == "GPU" else self.arena.host_bytes

    @property
    def fixed_bytes(self) -> int:
        """One instance without a network."""
        return self.process_bytes + self.workspace_bytes + self.arena_bytes

    @property
    def instance_bytes(self) -> int:
        """One instance, its networks included."""
        return self.fixed_bytes + self.resident * self.network_bytes

    @property
    def total_bytes(self) -> int:
        """All instances."""
        return self.instances * self.instance_bytes + self.encoder_bytes

    @property
    def usable_bytes(self) -> int:
        """What all instances may take together."""
        return int(self.memory_bytes * (1 - RESERVED))

    @property
    def network_cache_mib(self) -> int:
        """What LIPSTREAM_NETWORK_CACHE_MIB has to be for so many networks: it counts their files."""
        return -(-self.resident * self.file_bytes // MIB)


def served_policy(scratch_bytes: int) -> ArenaPolicy:
    """How `compositor_backend.onnx_runtime` has memory used, for runs of `scratch_bytes`."""
    return ArenaPolicy(reuse_shapes=False, region_bytes=arena_region_bytes(scratch_bytes))


def gpu_plan(
    folder: Path,
    memory_bytes: int,
    instances: int = 8,
    *,
    context_bytes: int = CONTEXT_BYTES,
    scratch_bytes: int = DEFAULT_SCRATCH_BYTES["GPU"],
) -> MemoryPlan:
    """The plan for avatars like the one in `folder` on a GPU; `ExportError` if not even one of them fits."""
    manifest = Manifest.load(folder)
    half = manifest.graphs.get(NETWORK_FP16)
    name = NETWORK if half is None else NETWORK_FP16
    memory = read_memory(folder / f"{name}.onnx")
    file_bytes = _HALF_BYTES * memory.weights if half is None else half.bytes
    return gpu_plan_of(
        memory if half is not None else memory.halved(),
        file_bytes,
        memory_bytes,
        instances,
        context_bytes=context_bytes,
        scratch_bytes=scratch_bytes,
    )


def gpu_plan_of(
    memory: GraphMemory,
    file_bytes: int,
    memory_bytes: int,
    instances: int = 8,
    *,
    context_bytes: int = CONTEXT_BYTES,
    scratch_bytes: int = DEFAULT_SCRATCH_BYTES["GPU"],
) -> MemoryPlan:
    """The same for networks of `file_bytes` whose runs take `memory`, in half precision."""
    weight_bytes = _HALF_BYTES * memory.weights
    rows = rows_of("GPU", memory.row_bytes, scratch_bytes)
    return _filled(
        MemoryPlan(
            device="GPU",
            memory_bytes=memory_bytes,
            instances=instances,
            process_bytes=context_bytes,
            workspace_bytes=WORKSPACE_BYTES,
            row_bytes=memory.row_bytes,
            rows=rows,
            arena=memory.use(rows, served_policy(scratch_bytes)),
            weight_bytes=weight_bytes,
            network_bytes=-(-weight_bytes // GRANULE_BYTES) * GRANULE_BYTES,
            file_bytes=file_bytes,
            encoder_bytes=_encoder_bytes("GPU", context_bytes + WORKSPACE_BYTES),
        )
    )


def cpu_plan(
    folder: Path,
    memory_bytes: int,
    instances: int = 1,
    *,
    scratch_bytes: int = DEFAULT_SCRATCH_BYTES["CPU"],
) -> MemoryPlan:
    """The plan for avatars like the one in `folder` on a machine without a GPU."""
    graph = folder / f"{NETWORK}.onnx"
    file_bytes = Manifest.load(folder).graphs[NETWORK].bytes
    return cpu_plan_of(graph, file_bytes, memory_bytes, instances, scratch_bytes=scratch_bytes)


def cpu_plan_of(
    graph: Path,
    file_bytes: int,
    memory_bytes: int,
    instances: int = 1,
    *,
    scratch_bytes: int = DEFAULT_SCRATCH_BYTES["CPU"],
) -> MemoryPlan:
    """The same for networks like `graph`, whose files are `file_bytes` long."""
    row_bytes = read_memory(graph).row_bytes
    memory = read_memory(graph, CPU_CHANNELS)
    weight_bytes = _FLOAT_BYTES * memory.weights
    rows = rows_of("CPU", row_bytes, scratch_bytes)
    return _filled(
        MemoryPlan(
            device="CPU",
            memory_bytes=memory_bytes,
            instances=instances,
            process_bytes=PROCESS_BYTES,
            workspace_bytes=0,
            row_bytes=row_bytes,
            rows=rows,
            arena=memory.use(rows, served_policy(scratch_bytes)),
            weight_bytes=weight_bytes,
            network_bytes=weight_bytes + SESSION_BYTES,
            file_bytes=file_bytes,
            encoder_bytes=_encoder_bytes("CPU", PROCESS_BYTES),
        )
    )


def _encoder_bytes(device: str, process_bytes: int) -> int:
    return process_bytes + ENCODER_SCRATCH_BYTES[device] + ENCODER_CACHE_BYTES[device]


def _filled(plan: MemoryPlan) -> MemoryPlan:
    """With as many networks as there is room for."""
    if plan.instances < 1:
        raise ExportError(f"instances: expected 1 or more, got {plan.instances}")
    left = (plan.usable_bytes - plan.encoder_bytes) // plan.instances - plan.fixed_bytes
    if left < plan.network_bytes:
        least = replace(plan, resident=1).total_bytes
        raise ExportError(
            f"{plan.instances} instances take {least / GIB:.1f} GiB with one avatar; there are "
            f"{plan.usable_bytes / GIB:.1f} GiB: use fewer instances, or a smaller LIPSTREAM_SCRATCH_MIB"
        )
    return replace(plan, resident=left // plan.network_bytes)
