"""TensorRT itself: from a graph to an engine, and an engine's answers. The only module that imports it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from compositor_backend.contract import Model
from export.cuda_driver import CudaDriver
from export.engine_configs import WORKSPACE_BYTES
from export.engine_record import Platform
from export.engine_settings import Batches
from export.errors import ExportError
from export.picture_parity import Inputs, Outputs

MIN_VERSION = (10, 0)
"""The first with int64, which AVATAR_KEY is."""
TIMED_RUNS = 20
_MISSING = (
    "TensorRT is not installed; pip install 'lipstream[tensorrt]' gets the version of the pinned Triton image, "
    "whose TensorRT has to be the same: with another image, pip install tensorrt-cu12==VERSION, that image's; "
    "--onnx and --accelerator need none"
)


@dataclass(frozen=True)
class Built:
    """An engine, and the timings of layers that were measured for it or before."""

    plan: bytes
    timing_cache: bytes


class TensorRTBuilder:
    """Builds engines on one GPU and runs them there; `module` and `driver` are TensorRT and CUDA's driver."""

    def __init__(self, device: int = 0, module: Any = None, driver: CudaDriver | None = None) -> None:
        self._trt = module or import_tensorrt()
        self._driver = driver or CudaDriver(device)
        self._logger = _make_logger(self._trt)

    @property
    def platform(self) -> Platform:
        """What an engine from here runs on."""
        return Platform(self._driver.name, self._driver.compute_capability, str(self._trt.__version__))

    def build(self, name: str, graph: bytes, model: Model, batches: Batches, timing_cache: bytes) -> Built:
        """An engine of an ONNX graph with the tensors of `model`, in the precision that the graph has.

        TensorRT keeps to the types in the graph (a strongly typed network): from version 11 on it does so always.
        """
        trt = self._trt
        builder = trt.Builder(self._logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parse(trt, self._logger, network, name, graph)
        config = builder.create_builder_config()
        configure(trt, builder, config, model, batches)
        cache = config.create_timing_cache(timing_cache)
        config.set_timing_cache(cache, False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ExportError(f"{name}: TensorRT built no engine: {self._logger.last()}")
        return Built(bytes(plan), bytes(config.get_timing_cache().serialize()))

    @contextmanager
    def engine(self, name: str, plan: bytes) -> Iterator[TensorRTEngine]:
        """An engine, ready to run; its memory on the GPU is given back at the end."""
        runtime = self._trt.Runtime(self._logger)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ExportError(f"{name}: TensorRT does not load its engine: {self._logger.last()}")
        with self._driver.stream() as stream:
            yield TensorRTEngine(self._trt, self._driver, engine, stream)


class TensorRTEngine:
    """An engine that was loaded. Not to be used from several threads."""

    def __init__(self, module: Any, driver: CudaDriver, engine: Any, stream: int) -> None:
        self._trt = module
        self._driver = driver
        self._engine = engine
        self._context = engine.create_execution_context()
        self._stream = stream

    def run(self, inputs: Inputs) -> Outputs:
        """What the engine answers."""
        with ExitStack() as stack:
            outputs, addresses = self._bind(stack, inputs)
            self._execute()
            for tensor, array in outputs.items():
                self._driver.download(addresses[tensor], array)
        return outputs

    def milliseconds(self, inputs: Inputs) -> float:
        """The median of what a run takes, without the copies to and from the GPU."""
        with ExitStack() as stack:
            self._bind(stack, inputs)
            self._execute()
            times = []
            for _ in range(TIMED_RUNS):
                start = time.perf_counter()
                self._execute()
                times.append((time.perf_counter() - start) * 1000)
        return statistics.median(times)

    def _bind(self, stack: ExitStack, inputs: Inputs) -> tuple[Outputs, dict[str, int]]:
        """Put inputs onto the GPU and make room for the outputs: arrays to fill, and all tensors' addresses."""
        addresses: dict[str, int] = {}
        for name, array in inputs.items():
            addresses[name] = stack.enter_context(self._driver.memory(array.nbytes))
            self._driver.upload(addresses[name], array)
            if not self._context.set_input_shape(name, array.shape):
                raise ExportError(f"the engine takes no {name} of shape {list(array.shape)}")
        outputs = {name: self._room_for(name) for name in self._output_names()}
        for name, array in outputs.items():
            addresses[name] = stack.enter_context(self._driver.memory(array.nbytes))
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        return outputs, addresses

    def _room_for(self, name: str) -> Any:
        shape = tuple(self._context.get_tensor_shape(name))
        return np.empty(shape, self._trt.nptype(self._engine.get_tensor_dtype(name)))

    def _output_names(self) -> Iterator[str]:
        for number in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(number)
            if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.OUTPUT:
                yield name

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise ExportError("the engine did not run")
        self._driver.synchronize(self._stream)


def parse(trt: Any, logger: Any, network: Any, name: str, graph: bytes) -> None:
    """Read an ONNX graph into a network; `ExportError` with the parser's first complaint."""
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        reason = parser.get_error(0).desc() if parser.num_errors else "it does not say why"
        raise ExportError(f"{name} is no graph that TensorRT takes: {str(reason)[:200]}")


def configure(trt: Any, builder: Any, config: Any, model: Model, batches: Batches) -> None:
    """Memory to try things in, float32 as float32, and one profile for all batches."""
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    # On by default: float32 arithmetic with the mantissa of float16.
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    for tensor, shapes in profile_of(model, batches).items():
        profile.set_shape(tensor, *shapes)
    config.add_optimization_profile(profile)


def profile_of(model: Model, batches: Batches) -> Mapping[str, Sequence[tuple[int, ...]]]:
    """Smallest, tuned and largest shape of each input."""
    sizes = (batches.smallest, batches.tuned, batches.largest)
    return {tensor.name: [(size, *tensor.shape[1:]) for size in sizes] for tensor in model.inputs}


def import_tensorrt() -> Any:
    """The package; `ExportError` that says how to get it, or which version is wanted."""
    try:
        import tensorrt
    except ImportError as error:
        raise ExportError(_MISSING) from error
    version = tuple(int(part) for part in str(tensorrt.__version__).split(".")[:2])
    if version < MIN_VERSION:
        raise ExportError(
            f"TensorRT {tensorrt.__version__} is installed; {'.'.join(map(str, MIN_VERSION))} or newer is wanted"
        )
    return tensorrt


def _make_logger(trt: Any) -> Any:
    """TensorRT's own complaints, the last of which becomes part of an error's sentence."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # TensorRT is not there to be type-checked
        def __init__(self) -> None:
            super().__init__()
            self.complaints: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.complaints.append(message)

        def last(self) -> str:
            return self.complaints[-1][:200] if self.complaints else "it does not say why"

    return Logger()
