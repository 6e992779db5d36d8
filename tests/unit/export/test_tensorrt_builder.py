"""TensorRT and the GPU's driver as stand-ins: engines are ONNX graphs, run on the CPU in memory by its address.

What TensorRT itself makes of a graph takes a GPU (`tests/functional/export/test_engine_gpu.py`).
"""

from __future__ import annotations

import ctypes
import enum
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from export import cuda_driver
from export.cuda_driver import CudaDriver
from export.engine import build_engine
from export.engine_record import EngineRecord
from export.engine_settings import PLAN, Batches, EngineSettings
from export.errors import ExportError
from export.model_configs import Network
from export.tensorrt_builder import TensorRTBuilder, import_tensorrt, profile_of
from tests.support.engines import AUDIO, SIDE_PX, convolving_graph, write_avatars

MODEL = Network("lipsync_ann", SIDE_PX, AUDIO).model
BATCHES = Batches(1, 4, 32)


class HostDriver:
    """libcuda's functions on the host's own memory; `live` are the blocks that were not freed."""

    def __init__(self, refuse: str = "", code: int = 2) -> None:
        self.live: dict[int, Any] = {}
        self.streams = 0
        self._refuse = (refuse, code)

    def __getattr__(self, name: str) -> Any:
        if name == self._refuse[0]:
            return lambda *_arguments: self._refuse[1]
        return {
            "cuDeviceGetName": self._name,
            "cuDeviceGetAttribute": self._attribute,
            "cuMemAlloc_v2": self._allocate,
            "cuMemFree_v2": self._free,
            "cuMemcpyHtoD_v2": self._upload,
            "cuMemcpyDtoH_v2": self._download,
            "cuStreamCreate": self._open_stream,
            "cuStreamDestroy_v2": self._close_stream,
        }.get(name, lambda *_arguments: 0)

    @staticmethod
    def _name(text: Any, _length: int, _device: Any) -> int:
        text.value = b"Some GPU"
        return 0

    @staticmethod
    def _attribute(number: Any, attribute: int, _device: Any) -> int:
        number._obj.value = {75: 9, 76: 0}[attribute]
        return 0

    def _allocate(self, address: Any, size: Any) -> int:
        block = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(block)
        self.live[address._obj.value] = block
        return 0

    def _free(self, address: Any) -> int:
        del self.live[address.value]
        return 0

    def _upload(self, address: Any, data: Any, size: Any) -> int:
        assert len(self.live[address.value]) == size.value
        ctypes.memmove(address.value, data.value, size.value)
        return 0

    def _download(self, data: Any, address: Any, size: Any) -> int:
        assert len(self.live[address.value]) == size.value
        ctypes.memmove(data.value, address.value, size.value)
        return 0

    def _open_stream(self, handle: Any, _flags: int) -> int:
        handle._obj.value = 77
        self.streams += 1
        return 0

    def _close_stream(self, handle: Any) -> int:
        assert handle.value == 77
        self.streams -= 1
        return 0


_TYPES = {"tensor(uint8)": np.uint8, "tensor(int64)": np.int64, "tensor(float)": np.float32}


class StandInContext:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return shape[0] <= BATCHES.largest

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        declared = {t.name: t.shape for t in (*self._session.get_inputs(), *self._session.get_outputs())}[
            name
        ]
        return (self._shapes["FACE"][0], *declared[1:])

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 77
        inputs = {t.name: self._view(t) for t in self._session.get_inputs()}
        names = [t.name for t in self._session.get_outputs()]
        for tensor, value in zip(self._session.get_outputs(), self._session.run(names, inputs), strict=True):
            self._view(tensor)[:] = value
        return True

    def _view(self, tensor: Any) -> NDArray[Any]:
        shape = self._shapes.get(tensor.name) or self.get_tensor_shape(tensor.name)
        size = int(np.prod(shape)) * np.dtype(_TYPES[tensor.type]).itemsize
        block = (ctypes.c_char * size).from_address(self._addresses[tensor.name])
        return np.frombuffer(block, _TYPES[tensor.type]).reshape(shape)


class StandInEngine:
    def __init__(self, session: onnxruntime.InferenceSession, modes: type[enum.Enum]) -> None:
        self._session = session
        self._modes = modes
        self._tensors = [*session.get_inputs(), *session.get_outputs()]
        self.num_io_tensors = len(self._tensors)

    def create_execution_context(self) -> StandInContext:
        return StandInContext(self._session)

    def get_tensor_name(self, number: int) -> str:
        return str(self._tensors[number].name)

    def get_tensor_mode(self, name: str) -> Any:
        inputs = {tensor.name for tensor in self._session.get_inputs()}
        return self._modes["INPUT" if name in inputs else "OUTPUT"]

    def get_tensor_dtype(self, name: str) -> str:
        return next(str(tensor.type) for tensor in self._tensors if tensor.name == name)


class StandInTensorRT:
    """As much of the package as is called here; `log` is what was set, `fault` what goes wrong."""

    __version__ = "10.5.0"
    TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")
    NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
    MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
    BuilderFlag = enum.Enum("BuilderFlag", "TF32 FP16")

    class ILogger:
        Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING")

    def __init__(self, fault: str = "") -> None:
        self.log: list[tuple[Any, ...]] = []
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        """Calls that set something are written down."""
        return lambda *arguments: self.log.append((name, *arguments))

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        config = SimpleNamespace(
            set_memory_pool_limit=self.set_memory_pool_limit,
            clear_flag=self.clear_flag,
            set_timing_cache=self.set_timing_cache,
            add_optimization_profile=self.add_optimization_profile,
            create_timing_cache=lambda known: ("cache", known),
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"timings"),
        )

        def build_serialized_network(network: Any, _config: Any) -> bytes | None:
            if self._fault == "build":
                logger.log(self.ILogger.Severity.WARNING, "never mind")
                logger.log(self.ILogger.Severity.ERROR, "no tactic for Conv_3")
                return None
            return bytes(network.graph)

        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(flags=flags, graph=b""),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=self.set_shape),
            build_serialized_network=build_serialized_network,
        )

    def OnnxParser(self, network: Any, _logger: Any) -> Any:  # noqa: N802
        def parse(graph: bytes) -> bool:
            network.graph = graph
            self.log.append(("parse", network.flags))
            return self._fault != "parse"

        error = SimpleNamespace(desc=lambda: "UINT8 in the middle")
        return SimpleNamespace(parse=parse, num_errors=1, get_error=lambda _number: error)

    def Runtime(self, _logger: Any) -> Any:  # noqa: N802
        def deserialize_cuda_engine(plan: bytes) -> StandInEngine | None:
            if self._fault == "load":
                return None
            return StandInEngine(onnxruntime.InferenceSession(plan), self.TensorIOMode)

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)

    @staticmethod
    def nptype(kind: str) -> Any:
        return _TYPES[kind]


def builder(trt: StandInTensorRT, host: HostDriver) -> TensorRTBuilder:
    return TensorRTBuilder(module=trt, driver=CudaDriver(library=host))


def test_an_engine_is_built_for_all_batches_in_the_graphs_own_types() -> None:
    trt = StandInTensorRT()
    graph = convolving_graph().SerializeToString()
    built = builder(trt, HostDriver()).build("lipsync_ann", graph, MODEL, BATCHES, b"known")
    assert (built.plan, built.timing_cache) == (graph, b"timings")
    assert ("parse", 1 << 1) in trt.log, "strongly typed"
    assert ("clear_flag", trt.BuilderFlag.TF32) in trt.log
    assert ("set_timing_cache", ("cache", b"known"), False) in trt.log
    shapes = {entry[1]: entry[2:] for entry in trt.log if entry[0] == "set_shape"}
    assert shapes == {
        "FACE": tuple((batch, 3, SIDE_PX, SIDE_PX) for batch in (1, 4, 32)),
        "AUDIO": tuple((batch, *AUDIO) for batch in (1, 4, 32)),
    }
    assert profile_of(MODEL, BATCHES) == {name: list(sizes) for name, sizes in shapes.items()}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("parse", "lipsync_ann is no graph that TensorRT takes: UINT8 in the middle"),
        ("build", "lipsync_ann: TensorRT built no engine: no tactic for Conv_3"),
    ],
)
def test_what_tensorrt_refuses_is_one_sentence(fault: str, words: str) -> None:
    graph = convolving_graph().SerializeToString()
    with pytest.raises(ExportError, match=words):
        builder(StandInTensorRT(fault), HostDriver()).build("lipsync_ann", graph, MODEL, BATCHES, b"")


def test_an_engine_that_does_not_load() -> None:
    maker = builder(StandInTensorRT("load"), HostDriver())
    with pytest.raises(ExportError, match="does not load its engine"), maker.engine("x", b""):
        pass


def test_an_engines_answers_come_back_and_its_memory_is_given_back() -> None:
    host = HostDriver()
    graph = convolving_graph().SerializeToString()
    rng = np.random.default_rng(1)
    names = ["MOUTH", "AVATAR_KEY"]
    with builder(StandInTensorRT(), host).engine("lipsync_ann", graph) as engine:
        for batch in (1, 5):
            face = rng.integers(0, 256, (batch, 3, SIDE_PX, SIDE_PX), np.uint8)
            inputs = {"FACE": face, "AUDIO": rng.random((batch, *AUDIO), np.float32)}
            outputs = engine.run(inputs)
            expected = onnxruntime.InferenceSession(graph).run(names, inputs)
            for name, wanted in zip(names, expected, strict=True):
                assert np.array_equal(outputs[name], wanted)
                assert outputs[name].dtype == wanted.dtype
            assert engine.milliseconds(inputs) > 0
            assert host.live == {}
        # Arrays need not lie in memory as they are sent.
        turned = inputs | {"FACE": np.ascontiguousarray(face.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)}
        assert np.array_equal(engine.run(turned)["MOUTH"], expected[0])
        with pytest.raises(ExportError, match=r"takes no FACE of shape \[33, 3"):
            engine.run({"FACE": np.zeros((33, 3, 8, 8), np.uint8)})
        assert host.live == {}
        assert host.streams == 1
    assert host.streams == 0


def test_the_whole_command_through_the_stand_in(tmp_path: Path) -> None:
    avatars = write_avatars(tmp_path, "ann")
    maker = builder(StandInTensorRT(), HostDriver())
    outcome = build_engine(avatars, "lipsync_ann", EngineSettings(PLAN, "fp16", BATCHES), lambda: maker)
    record = EngineRecord.load(avatars / "lipsync_ann")
    assert record is not None
    assert (record.platform.gpu, record.platform.compute_capability) == ("Some GPU", "9.0")
    assert record.platform.tensorrt == "10.5.0"
    assert set(record.milliseconds) == {"1", "8", "25", "32"}
    assert "PSNR" in outcome.text


# --- what is missing ---
@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("cuInit", 100, r"refused cuInit \(error 100\): it sees no GPU"),
        ("cuDeviceGet", 101, "it has no GPU of that number"),
        ("cuDevicePrimaryCtxRetain", 999, r"refused cuDevicePrimaryCtxRetain \(error 999\)$"),
    ],
)
def test_a_driver_that_refuses(function: str, code: int, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        CudaDriver(library=HostDriver(function, code))


def test_a_gpu_whose_memory_is_full_keeps_nothing() -> None:
    host = HostDriver("cuMemcpyHtoD_v2", 2)
    driver = CudaDriver(library=host)
    with pytest.raises(ExportError, match="its memory is full"), driver.memory(16) as address:
        driver.upload(address, np.zeros(16, np.uint8))
    assert host.live == {}


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so.1")
    with pytest.raises(ExportError, match="built and run on an NVIDIA GPU, and there is no libcuda-that"):
        CudaDriver()


def test_a_tensorrt_that_is_too_old_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.1"))
    with pytest.raises(ExportError, match=r"TensorRT 8\.6\.1 is installed; 10\.0 or newer is wanted"):
        import_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ExportError, match=r"pip install 'lipstream\[tensorrt\]'"):
        import_tensorrt()
