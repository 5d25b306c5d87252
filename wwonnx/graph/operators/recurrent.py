"""Recurrent layers: W maps the input to the gates, R the hidden state; each direction is a layer of its own."""

from __future__ import annotations

from collections.abc import Iterator

from ...layer import LAYER_TYPE, MATRIX, TRANSPOSED
from .base import MICROSOFT, Operand, Reading, Site, operator
from .quantized import dequantized

#: Gates in the order in which ONNX stacks them.
_GATES = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h", "DynamicQuantizeLSTM": "iofc"}
_DIRECTIONS = ("", "_reverse")


def _read(site: Site, shape: tuple[int, ...], gates_last: bool = False) -> list[Reading]:
    """(directions, gates x hidden, columns), or with the last two exchanged.

    Raises:
        ValueError: it is not of that shape.
    """
    gates = _GATES[site.node.op_type]
    if len(shape) != 3 or shape[0] > 2 or shape[2 if gates_last else 1] % len(gates):
        raise ValueError(f"(directions, {len(gates)} x hidden, columns) was expected, this has shape {list(shape)}")
    hidden = shape[2 if gates_last else 1] // len(gates)
    found: list[Reading] = []
    for direction in range(shape[0]):
        suffix, layout = _DIRECTIONS[direction], TRANSPOSED if gates_last else MATRIX
        if not site.splits.gates or len(gates) == 1:
            found.append(Reading(layout, suffix, (direction,)))
            continue
        for number, gate in enumerate(gates):
            part = slice(number * hidden, (number + 1) * hidden)
            region = (direction, slice(None), part) if gates_last else (direction, part)
            found.append(Reading(layout, f"{suffix}.{gate}", region))
    return found


@operator("LSTM", "GRU", "RNN")
def recurrent(site: Site) -> Iterator[Operand]:
    """Inputs 1 and 2; the biases and peepholes are vectors."""
    for index, role in ((1, "W"), (2, "R")):
        yield from site.operand(index, LAYER_TYPE.RECURRENT, lambda shape: _read(site, shape), role=role)


@operator("DynamicQuantizeLSTM", domain=MICROSOFT)
def quantized_lstm(site: Site) -> Iterator[Operand]:
    """W and R are (directions, columns, 4 x hidden); scales and zero points, one per direction or gate, at 8 to 11."""
    for index, scale, role in ((1, 8, "W"), (2, 10, "R")):
        weight = dequantized(site, index, scale, scale + 1, per_direction=True)
        yield from site.operand(
            index, LAYER_TYPE.RECURRENT, lambda shape: _read(site, shape, True), weight=weight, role=role
        )
