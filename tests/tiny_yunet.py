"""A face detector with YuNet's inputs and outputs that takes red squares for faces: what its boxes are is known."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32
"""A face is a cell of this side, of a grid from the top left of the searched image, that is wholly red."""

_STRIDES = (8, 16, SIDE)
_SURE, _NEVER = 20.0, -20.0  # before the sigmoid


def write_yunet(path: Path) -> str:
    """Write it as ONNX, and return its path.

    The score of a cell is that of its class times that of an object, and its box the cell itself.
    """
    nodes, weights, outputs = [], [], []
    for stride in _STRIDES:
        for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            kernel, bias = _layer(name, width, stride)
            head = f"{name}_{stride}"
            weights += [numpy_helper.from_array(a, f"{head}.{n}") for n, a in (("w", kernel), ("b", bias))]
            weights.append(numpy_helper.from_array(np.array([1, -1, width]), f"{head}.shape"))
            inputs = ["input", f"{head}.w", f"{head}.b"]
            nodes.append(helper.make_node("Conv", inputs, [f"{head}.map"], strides=[stride] * 2))
            nodes.append(helper.make_node("Transpose", [f"{head}.map"], [f"{head}.last"], perm=[0, 2, 3, 1]))
            is_score = name in ("cls", "obj")
            flat = f"{head}.flat" if is_score else head
            nodes.append(helper.make_node("Reshape", [f"{head}.last", f"{head}.shape"], [flat]))
            if is_score:
                nodes.append(helper.make_node("Sigmoid", [flat], [head]))
            outputs.append(helper.make_tensor_value_info(head, TensorProto.FLOAT, [1, None, width]))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(nodes, "yunet", [image], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return str(path)


def _layer(name: str, width: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of the convolution whose cells are an output."""
    kernel, bias = np.zeros((width, 3, stride, stride), np.float32), np.zeros(width, np.float32)
    if name == "obj":
        bias[:] = _SURE
    if name == "bbox":
        bias[:2] = 0.5  # the middle of the cell; exp(0) cells wide and high
    if name == "cls" and stride == SIDE:  # the mean of red, less those of blue and green: 255 at most
        kernel[0] = np.array([-1, -1, 1], np.float32)[:, None, None] / stride**2
        bias[:] = -240
    elif name == "cls":
        bias[:] = _NEVER
    return kernel, bias
