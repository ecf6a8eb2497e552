"""Splits a graph before its last matrix product, so that what follows can run in float32.

In bfloat16, OpenVINO rounds the output of every matrix product to eight bits of mantissa. Between
layers that hardly matters, but the logits of two likely classes often round to the same number, and
then both classes have the same probability. Computed in float32, the last product takes a few
microseconds: it is one row of features times one matrix.

A network that ends in a convolution and an average over all positions, as SqueezeNet does, is not
split: OpenVINO averages in float32, and the average of 169 rounded numbers is no rounded number.
"""

from typing import Any

Model = Any
Node = Any

_PRODUCTS = {"MatMul", "Convolution", "GroupConvolution"}


def split_before_last_product(openvino: Any, model: Model) -> tuple[Model, Model] | None:
    """Split a model of one output into everything before its last matrix product, and the rest.

    Args:
        openvino: The module.
        model: From inputs with n rows to one output with n rows. It cannot be used afterwards.

    Returns:
        A model from the inputs to the features (n, k), and one from those to the output; None if
        the output does not follow from a single product of features and a constant matrix.
    """
    if len(model.outputs) != 1:
        return None
    product = _last_product(model.get_results()[0])
    if product is None:
        return None
    features = product.input_value(0)
    shape = features.get_partial_shape()
    if shape.rank != 2 or shape[1].is_dynamic or _depends_on_inputs(product.input_value(1)):
        return None
    trunk = openvino.Model(
        [openvino.opset13.result(features)], model.get_parameters(), "before the last product"
    )
    received = openvino.opset13.parameter(shape, features.get_element_type())
    product.input(0).replace_source_output(received.output(0))
    tail = openvino.Model(model.get_results(), [received], "from the last product on")
    return trunk, tail


def _last_product(result: Node) -> Node | None:
    """The one product that the output depends on by other operations only; None if not one."""
    products: dict[str, Node] = {}
    seen: set[str] = set()
    waiting = [result]
    while waiting:
        node = waiting.pop()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        if node.get_type_name() in _PRODUCTS:
            products[node.get_name()] = node
        elif node.get_type_name() == "Parameter":
            return None
        else:
            waiting += [node.input_value(index).get_node() for index in range(_inputs(node))]
    if len(products) != 1:
        return None
    (product,) = products.values()
    return product if product.get_type_name() == "MatMul" else None


def _depends_on_inputs(tensor: Any) -> bool:
    waiting, seen = [tensor.get_node()], set[str]()
    while waiting:
        node = waiting.pop()
        if node.get_type_name() == "Parameter":
            return True
        if node.get_name() not in seen:
            seen.add(node.get_name())
            waiting += [node.input_value(index).get_node() for index in range(_inputs(node))]
    return False


def _inputs(node: Node) -> int:
    count: int = node.get_input_size()
    return count
