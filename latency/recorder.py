"""Recording a forward pass: calls on tensors that descend from the input become ONNX nodes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper
from torch import Tensor
from torch.overrides import TorchFunctionMode


class UnsupportedOperation(Exception):
    """The recorder has no ONNX form for an operation of the module."""


# What a module may ask of a traced tensor: the answer does not depend on the values in it.
_QUERIES = {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device")),
}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


class Recorder(TorchFunctionMode):
    """Records the calls on tensors that descend from the input as ONNX nodes, by the ``handlers`` of functions."""

    def __init__(self, image: Tensor, handlers: Mapping[Any, Callable[..., str]]) -> None:
        super().__init__()
        self._handlers = handlers
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {id(image): "input"}
        self._alive: list[Tensor] = [image]  # ids stay unique as long as the tensors live

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        traced = any(id(tensor) in self._names for tensor in _tensors([args, kwargs]))
        if not traced or func in _QUERIES:
            return result
        handler = self._handlers.get(func)
        if handler is None:
            raise UnsupportedOperation(getattr(func, "__name__", str(func)))
        self._names[id(result)] = handler(self, result, *args, **kwargs)
        self._alive.append(result)
        return result

    def name(self, tensor: Tensor) -> str:
        """Return the ONNX name of a traced tensor, or store the tensor as a constant."""
        if id(tensor) not in self._names:
            self._names[id(tensor)] = self.constant(tensor.detach().numpy())
            self._alive.append(tensor)
        return self._names[id(tensor)]

    def traced(self, tensor: Tensor | None) -> bool:
        """Tell whether the tensor descends from the input or is stored already."""
        return id(tensor) in self._names

    def constant(self, value: np.ndarray) -> str:
        """Store a constant and return its name."""
        name = f"const{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output
