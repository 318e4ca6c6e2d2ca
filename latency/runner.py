"""The measuring program: times ONNX files on the machine on which it runs.

It needs numpy and an inference engine alone (ONNX Runtime, or OpenVINO), so that this one file can be sent to a
board. Requests are JSON lines on standard input, answers JSON lines on standard output:

* ``describe`` is answered by what identifies machine and engine;
* ``missing`` is answered by the names of files that are not there yet; ``put`` is followed by a file's bytes;
* ``measure`` is answered by one line per round and ``{"done": 0}``;
* ``remove`` deletes files.

What goes wrong is answered by ``{"error": kind, "text": ...}``. A missing last line means that the connection or the
program died. It ends at once when its standard input closes, so that it never outlives the program that asked.
"""

import gc
import json
import mmap
import os
import platform
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

QUANTITIES = ("cold_cpu_ms", "cold_wall_ms", "steady_cpu_ms", "steady_wall_ms")
_NUMPY_TYPES = {
    "float": np.float32, "f32": np.float32, "float16": np.float16, "f16": np.float16, "double": np.float64,
    "f64": np.float64, "int64": np.int64, "i64": np.int64, "int32": np.int32, "i32": np.int32, "uint8": np.uint8,
    "u8": np.uint8, "int8": np.int8, "i8": np.int8, "bool": np.bool_, "boolean": np.bool_,
}  # fmt: skip
_DAY_S = 86400
Run = Callable[[], object]


class Refused(Exception):
    """What was asked cannot be done here; the first argument is the kind, the second says why."""


def cpu_model() -> str:
    """Return the processor's name as the operating system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith(("model name", "Model")):
                    return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or "unknown"
    return platform.processor() or "unknown"


def _imported(engine: str) -> Any:
    # Both engines would report what they run to their makers, from threads that run beside what is timed.
    try:
        if engine == "openvino":
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
            import openvino

            return openvino
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        return onnxruntime
    except ImportError as error:
        raise Refused(
            "no engine", f"{sys.executable} cannot import {engine} ({error}); install it for that Python"
        ) from None


def _engine(name: str, provider: str, precision: str) -> Any:
    """Return the engine's module; what it lacks on this machine is refused."""
    module = _imported(name)
    if name == "openvino":
        # It would compute in f32 without a word.
        if precision == "bf16" and "BF16" not in module.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise Refused("no precision", f"{cpu_model()} has no bf16 instructions (AVX512-BF16 or AMX)")
    elif provider not in (known := module.get_available_providers()):
        raise Refused("no provider", f"ONNX Runtime has no {provider}; it has {', '.join(known)}")
    return module


def describe(engine: str, provider: str, precision: str) -> dict[str, str]:
    """Return what identifies this machine and engine (``onnxruntime`` or ``openvino``): a latency holds for these."""
    version = str(_engine(engine, provider, precision).__version__)
    return {
        "cpu": cpu_model(),
        "cores": str(os.cpu_count()),
        "architecture": platform.machine(),
        "system": platform.system(),
        "runtime": f"{engine} {version.partition('-')[0]}",
    }


def _random_input(shape: list[Any], kind: str, rng: np.random.Generator) -> Any:
    if not all(isinstance(side, int) and side > 0 for side in shape):
        raise Refused("dynamic shape", f"an input has the shape {shape}: export it with fixed sizes")
    if kind not in _NUMPY_TYPES:
        raise Refused("bad model", f"an input has the element type {kind!r}")
    dtype = np.dtype(_NUMPY_TYPES[kind])
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)  # an index that is valid in any table


def _onnxruntime_run(path: str, job: dict[str, Any], rng: np.random.Generator) -> Run:
    ort = _engine("onnxruntime", job["provider"], job["precision"])
    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if job["threads"] > 1:  # threads that spin take time from whatever else runs on the machine
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(path, options, providers=[job["provider"]])
        if session.get_providers()[0] != job["provider"]:
            raise Refused(
                "no provider", f"{job['provider']} did not start; it fell back to {session.get_providers()[0]}"
            )
        kinds = [(i.name, i.shape, i.type.removeprefix("tensor(").removesuffix(")")) for i in session.get_inputs()]
        feed = {name: _random_input(shape, kind, rng) for name, shape, kind in kinds}
        session.run(None, feed)
    except Refused:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions have no common parent
        raise Refused("bad model", str(error)) from None
    return lambda: session.run(None, feed)


def _openvino_run(path: str, job: dict[str, Any], rng: np.random.Generator) -> Run:
    ov = _engine("openvino", job["provider"], job["precision"])
    precision = "bf16" if job["precision"] == "bf16" else "f32"
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": job["threads"]}
    try:
        model = ov.Core().compile_model(path, "CPU", settings)
        request = model.create_infer_request()
        values = []
        for port in model.inputs:
            shape = [s.get_length() if s.is_static else 0 for s in port.get_partial_shape()]
            values.append(_random_input(shape, port.get_element_type().get_type_name(), rng))
        request.infer(values)
    except RuntimeError as error:
        raise Refused("bad model", str(error)) from None
    return lambda: request.infer(values)


_LOAD = {"onnxruntime": _onnxruntime_run, "openvino": _openvino_run}


def _displacer(job: dict[str, Any], company: Run) -> Callable[[], None]:
    """Return what runs before every cold call: memory traffic over small pages, then another network.

    Caches, TLB and branch predictors forget a model only when enough else has happened since its last call. In every
    round, ``sweep_bytes`` are therefore swept, a part before each call: how much lies between two calls of the same
    model does not depend on how many others are measured beside it.
    """
    memory = mmap.mmap(-1, job["sweep_bytes"])
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    values = np.frombuffer(memory, np.float64)
    parts = np.array_split(values, len(job["models"]))
    at = 0

    def displace() -> None:
        nonlocal at
        part = parts[at]
        np.add(part, 1.0, out=part)
        at = (at + 1) % len(parts)
        company()

    return displace


def _timed(run: Run) -> tuple[float, float]:
    """Run once; return the calling thread's CPU time and the wall time, in ms."""
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    run()
    return (time.thread_time_ns() - cpu) / 1e6, (time.perf_counter_ns() - wall) / 1e6


def measure(job: dict[str, Any], folder: Path, emit: Callable[[dict[str, Any]], None]) -> None:
    """Time every model of ``job`` once per round, in an order shuffled for each round.

    Each round from ``first_round`` to before ``end_round`` calls ``emit`` with the ``round`` and one list per quantity
    (ms, in the order of the models): ``cold`` is the first call after other work went through the caches, ``steady``
    the last of that model's ``calls`` in a row (the cold one where there is but one); ``cpu`` is the calling thread's
    CPU time, ``wall`` the wall time. Orders depend on ``seed`` and the round's number alone.
    """
    gc.disable()
    displace = _displacer(job, _load(job, folder, job["company"]))
    runs: dict[int, Run] = {}
    for i in np.random.default_rng([job["seed"], 1, job["first_round"]]).permutation(len(job["models"])):
        runs[i] = _load(job, folder, job["models"][i])
    for number in range(job["first_round"], job["end_round"]):
        row = {quantity: [0.0] * len(runs) for quantity in QUANTITIES}
        order = np.random.default_rng([job["seed"], 0, number]).permutation(len(runs))
        for i in order:
            displace()
            cold = steady = _timed(runs[i])
            for _ in range(job["calls"][i] - 1):
                steady = _timed(runs[i])
            for quantity, value in zip(QUANTITIES, (*cold, *steady), strict=True):
                row[quantity][i] = value
        emit({"round": number, **row})
        gc.collect()


def _load(job: dict[str, Any], folder: Path, name: str) -> Run:
    try:
        return _LOAD[job["engine"]](str(folder / name), job, np.random.default_rng(job["seed"]))
    except Refused as error:
        kind, text = error.args
        one_line = " ".join(text.replace(str(folder / name), name).split())
        raise Refused(kind, f"{name}: {one_line}") from None


class _Server:
    """Answers requests until standard input closes."""

    def __init__(self, folder: Path, source: BinaryIO) -> None:
        self._folder = folder
        self._source = source
        self._requests: queue.Queue[dict[str, Any]] = queue.Queue()

    def serve(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._folder.glob("*.onnx*"):  # what a broken connection left behind
            if time.time() - path.stat().st_mtime > _DAY_S:
                path.unlink(missing_ok=True)
        threading.Thread(target=self._read, daemon=True).start()
        while True:
            request = self._requests.get()
            try:
                self._answer(request)
            except Refused as error:
                _emit({"error": error.args[0], "text": error.args[1]})
            except Exception as error:  # an interpreter that ends beside a reading thread may abort without a message
                last = "".join(traceback.format_exception_only(error))
                _emit({"error": "crashed", "text": " ".join(last.split())})

    def _read(self) -> None:
        try:
            while line := self._source.readline():
                self._receive(json.loads(line))
        finally:
            os._exit(3)

    def _receive(self, request: dict[str, Any]) -> None:
        if request["ask"] == "put":
            self._put(request["name"], request["bytes"])
        else:
            self._requests.put(request)

    def _put(self, name: str, size: int) -> None:
        content = self._source.read(size)
        if len(content) < size:
            return  # the connection broke
        arriving = self._folder / f"{name}.part"
        try:
            arriving.write_bytes(content)
            arriving.replace(self._folder / name)
        except OSError as error:
            arriving.unlink(missing_ok=True)
            _emit({"error": "no room", "text": f"cannot write {self._folder}: {error.strerror}"})

    def _answer(self, request: dict[str, Any]) -> None:
        if request["ask"] == "describe":
            _emit({"describe": describe(request["engine"], request["provider"], request["precision"])})
        elif request["ask"] == "missing":
            _emit({"missing": [name for name in request["names"] if not (self._folder / name).exists()]})
        elif request["ask"] == "remove":
            for name in request["names"]:
                (self._folder / name).unlink(missing_ok=True)
            _emit({"removed": len(request["names"])})
        else:
            measure(request, self._folder, _emit)
            _emit({"done": 0})


def _emit(line: dict[str, Any]) -> None:
    try:
        print(json.dumps(line), flush=True)
    except BrokenPipeError:
        os._exit(3)


def main() -> None:
    """Serve; the first argument is the folder for models, by default one in the user's cache."""
    print(flush=True)  # ends a greeting of the shell that has no line feed
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path.home() / ".cache" / "nas-measure"
    _Server(folder, sys.stdin.buffer).serve()


if __name__ == "__main__":
    main()
