"""What the evaluation pipeline does to a picture (`compress.data.decode.Square`, then the normalisation), as a graph.

In: how a model sees pictures. Out: `pixels` uint8 [batch, height, width, 3] -> `front_input` float32 [batch, 3, S, S].

Each axis is resampled by a matrix that the graph computes from the size of the picture, with Pillow's weights, and
with Pillow's rounding to whole pixel values after each axis. ONNX has antialiasing in Resize, too. Both were measured
against Pillow on one thread of an x86 server CPU, while other work ran, for 160 pixels (crop_pct 0.875, bicubic):

| picture | two MatMuls | other by 1 | Resize, float | other by 1 to 3 | Resize, uint8 | other by 1 | Pillow |
|---|---|---|---|---|---|---|---|
| 500 x 375 | 1.9 ms | 0.001 % | 1.5 ms | 15 % | 2.1 ms | 0.008 % | 1.3 ms |
| 1600 x 1200 | 40 ms | 0.003 % | 21 ms | 9 % | 28 ms | 0.03 % | 24 ms |
| 4000 x 3000 | 262 ms | 0.005 % | 178 ms | 6 % | 127 ms | 0.02 % | 100 ms |

TensorRT takes no antialiased Resize, and ONNX Runtime takes no bilinear one of uint8. Every runtime has MatMul.

Pillow 13 resamples the height first where it loses more than twice as many pixels as the width, and so does this graph.
Older ones always begin with the width. Values differ by more than 1 there, and where "box" and "nearest" meet a tie.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.data.decode import Square
from export.onnx.file import PIXELS_NAME

FRONT_OUTPUT = "front_input"
_SUPPORTS = {"nearest": 0.5, "box": 0.5, "bilinear": 1, "hamming": 1, "bicubic": 2, "lanczos": 3}
_PRECISION = 2.0**22  # Pillow's weights are whole multiples of 2^-22


def preprocessing_metadata(square: Square, mean: Sequence[float], std: Sequence[float]) -> dict[str, str]:
    """What a file says of how its model sees pictures. `mean` and `std` per channel, in 0..1."""
    return {
        "mean": ",".join(f"{value:.9g}" for value in mean),
        "std": ",".join(f"{value:.9g}" for value in std),
        "image_size": str(square.size),
        "interpolation": square.interpolation,
        "crop_pct": f"{square.crop_pct:.9g}",
        "fit": square.fit,
    }


class _Graph:
    """Nodes by their operator: `graph.Add(a, b)` adds one and gives the name of its output."""

    def __init__(self, outer: "_Graph | None" = None, name: str = "preprocess") -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {} if outer is None else outer.constants

    def __getattr__(self, operator: str) -> Callable[..., str]:
        def add(*inputs: str, output: str = "", **attributes: Any) -> str:
            name = f"{self.name}/{operator}_{len(self.nodes)}"
            self.nodes.append(helper.make_node(operator, inputs, [output or name], name, **attributes))
            return output or name

        return add

    def whole(self, *values: int) -> str:
        """An int64 constant: a scalar of one value, else a vector."""
        return self._constant(np.array(values[0] if len(values) == 1 else values, np.int64))

    def vector(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def real(self, value: float | np.ndarray) -> str:
        return self._constant(np.asarray(value, np.float32))

    def _constant(self, value: np.ndarray) -> str:
        name = f"preprocess/{value.dtype}_{'x'.join(map(str, value.shape))}_{'_'.join(map(str, value.reshape(-1)))}"
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def float(self, value: str) -> str:
        return self.Cast(value, to=TensorProto.FLOAT)

    def int(self, value: str) -> str:
        return self.Cast(value, to=TensorProto.INT64)


def preprocessing_graph(
    square: Square, mean: Sequence[float], std: Sequence[float], *, output: str = FRONT_OUTPUT
) -> onnx.GraphProto:
    """The graph for pictures of any height and width.

    Args:
        square: how a picture becomes a square.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        output: its name.
    """
    g = _Graph()
    shape = g.Shape(PIXELS_NAME)
    height, width = (g.Gather(shape, g.whole(axis)) for axis in (1, 2))
    axes = [_Axis(g, square, side, height, width) for side in (height, width)]
    starts, ends = ([getattr(axis, end) for axis in axes] for end in ("first", "end"))
    # TensorRT computes with bytes only after they were cast.
    needed = g.Slice(g.float(PIXELS_NAME), _joined(g, starts), _joined(g, ends), g.vector(1, 2))
    planes = g.Transpose(needed, perm=[0, 3, 1, 2])
    rows, columns = axes
    pixels = _resampled(g, planes, rows, columns)
    if square.fit == "pad":
        inside = g.Mul(rows.inside(-1), columns.inside(0))
        fill = g.real(np.reshape(square.fill, (1, 3, 1, 1)))
        pixels = g.Add(g.Mul(pixels, inside), g.Mul(fill, g.Sub(g.real(1), inside)))
    # (x / 255 - mean) / std as one subtraction and one division, in units of pixel values.
    offset, spread = (np.reshape(np.asarray(value, np.float64) * 255, (1, 3, 1, 1)) for value in (mean, std))
    g.Div(g.Sub(pixels, g.real(offset)), g.real(spread), output=output)
    taken = helper.make_tensor_value_info(PIXELS_NAME, TensorProto.UINT8, ["batch", "height", "width", 3])
    given = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 3, square.size, square.size])
    return helper.make_graph(g.nodes, "preprocess", [taken], [given], list(g.constants.values()))


class _Axis:
    """The resampling of one axis: of `side` source pixels `resized` are made, and of these `size` from `start` on.

    The source pixels from `first` to `end` are all that those need.
    """

    def __init__(self, g: _Graph, square: Square, side: str, height: str, width: str) -> None:
        self.g, self.square, self.side = g, square, side
        self.resized = self._resized(height, width)
        self.start = self._start()
        self.larger = g.Max(side, self.resized)
        last = g.Add(self.start, g.whole(square.size - 1))
        support = g.whole(math.ceil(_SUPPORTS[square.interpolation]))
        reach = g.Add(g.Div(g.Mul(self.larger, support), self.resized), g.whole(2))
        self.first = g.Max(g.Sub(self._centre(self.start), reach), g.whole(0))
        self.end = g.Min(g.Add(self._centre(last), reach), side)

    def _resized(self, height: str, width: str) -> str:
        g, target = self.g, self.square.target
        if self.square.fit == "stretch":
            return g.whole(target)
        if self.square.fit == "crop":
            return g.Div(g.Mul(self.side, g.whole(target)), g.Min(height, width))
        # Half to even, in whole numbers: what is left of the division, doubled, against the divisor.
        longer, product = g.Max(height, width), g.Mul(self.side, g.whole(target))
        return g.Max(self._rounded(product, longer), g.whole(1))

    def _rounded(self, dividend: str, divisor: str) -> str:
        """The quotient of whole numbers from 0 up, rounded half to even."""
        g = self.g
        below = g.Div(dividend, divisor)
        twice = g.Mul(g.Sub(dividend, g.Mul(below, divisor)), g.whole(2))
        odd = g.Sub(below, g.Mul(g.Div(below, g.whole(2)), g.whole(2)))
        up = g.Greater(g.Add(twice, odd), divisor)
        return g.Add(below, g.int(up))

    def _start(self) -> str:
        g, size = self.g, self.square.size
        if self.square.fit == "stretch":
            return g.whole(round((self.square.target - size) / 2))
        spare = g.Max(g.Sub(self.resized, g.whole(size)), g.whole(0))
        cut = self._rounded(spare, g.whole(2))
        if self.square.fit == "crop":
            return cut
        lacking = g.Max(g.Sub(g.whole(size), self.resized), g.whole(0))
        return g.Sub(cut, g.Div(lacking, g.whole(2)))

    def _centre(self, place: str) -> str:
        """The source pixel below the centre of a resized pixel."""
        g = self.g
        twice = g.Add(g.Mul(self._clamped(place), g.whole(2)), g.whole(1))
        return g.Div(g.Mul(twice, self.side), g.Mul(self.resized, g.whole(2)))

    def _clamped(self, place: str) -> str:
        if self.square.fit != "pad":
            return place
        return self.g.Max(self.g.Min(place, self.g.Sub(self.resized, self.g.whole(1))), self.g.whole(0))

    def _places(self) -> str:
        """int64 [size]: the resized pixels."""
        g = self.g
        return g.Add(g.whole(*range(self.square.size)), self.start)

    def inside(self, axis: int) -> str:
        """float32 [size, 1] (axis -1) or [1, size] (axis 0): 1 where the picture is, 0 where it is padded."""
        g, places = self.g, self._places()
        within = g.And(g.Not(g.Less(places, g.whole(0))), g.Less(places, self.resized))
        return g.Unsqueeze(g.float(within), g.vector(axis))

    def weights(self, *, transposed: bool) -> str:
        """float32 [size, source pixels], or the other way round: what each source pixel adds to a resized one."""
        g, resized = self.g, self.resized
        along, across = ((0,), (1,)) if transposed else ((1,), (0,))
        places = g.Unsqueeze(self._clamped(self._places()), g.vector(*along))
        sources = g.Unsqueeze(g.Range(self.first, self.end, g.whole(1)), g.vector(*across))
        if self.square.interpolation == "nearest":
            return g.float(g.Equal(sources, self._centre(places)))
        twice_place, twice_source = (g.Add(g.Mul(value, g.whole(2)), g.whole(1)) for value in (places, sources))
        # In whole numbers, which are exact, as far as it goes.
        difference = g.Sub(g.Mul(twice_source, resized), g.Mul(twice_place, self.side))
        distance = g.Div(g.float(difference), g.float(g.Mul(self.larger, g.whole(2))))
        weights = _FILTERS[self.square.interpolation](g, distance)
        weights = g.Div(weights, g.ReduceSum(weights, g.vector(*along), keepdims=1))
        step = g.real(_PRECISION)
        return g.Div(g.Floor(g.Add(g.Mul(weights, step), g.real(0.5))), step)


def _box(g: _Graph, distance: str) -> str:
    half = g.real(0.5)
    return g.float(g.And(g.Greater(distance, g.Neg(half)), g.Not(g.Greater(distance, half))))


def _bilinear(g: _Graph, distance: str) -> str:
    return g.Max(g.Sub(g.real(1), g.Abs(distance)), g.real(0))


def _bicubic(g: _Graph, distance: str) -> str:
    """Keys's cubic with a = -1/2, factored, which loses no digits where it is near 0."""
    one, two, x = g.real(1), g.real(2), g.Abs(distance)
    inner = g.Mul(g.Sub(one, x), g.Sub(g.Add(one, x), g.Mul(g.real(1.5), g.Mul(x, x))))
    rest = g.Max(g.Sub(two, x), g.real(0))
    outer = g.Mul(g.Mul(g.Sub(one, x), g.real(0.5)), g.Mul(rest, rest))
    return g.Where(g.Less(x, one), inner, outer)


def _sinc(g: _Graph, x: str) -> str:
    """sin(pi x) / (pi x)."""
    angle = g.Mul(x, g.real(math.pi))
    is_zero = g.Equal(angle, g.real(0))
    return g.Where(is_zero, g.real(1), g.Div(g.Sin(angle), g.Where(is_zero, g.real(1), angle)))


def _hamming(g: _Graph, distance: str) -> str:
    window = g.Add(g.real(0.54), g.Mul(g.real(0.46), g.Cos(g.Mul(distance, g.real(math.pi)))))
    return g.Where(g.Less(g.Abs(distance), g.real(1)), g.Mul(_sinc(g, distance), window), g.real(0))


def _lanczos(g: _Graph, distance: str) -> str:
    window = _sinc(g, g.Div(distance, g.real(3)))
    return g.Where(g.Less(g.Abs(distance), g.real(3)), g.Mul(_sinc(g, distance), window), g.real(0))


_FILTERS: dict[str, Callable[[_Graph, str], str]] = {
    "box": _box,
    "bilinear": _bilinear,
    "bicubic": _bicubic,
    "hamming": _hamming,
    "lanczos": _lanczos,
}


def _resampled(g: _Graph, planes: str, rows: _Axis, columns: _Axis) -> str:
    """The planes with both axes resampled, in Pillow's order: whole pixel values in between make it matter."""
    down, right = rows.weights(transposed=False), columns.weights(transposed=True)
    first, then = _Graph(g, "rows first"), _Graph(g, "columns first")
    lost, lost_across = (g.Sub(axis.side, axis.resized) for axis in (rows, columns))
    rows_first = g.Greater(lost, g.Max(g.Mul(lost_across, g.whole(2)), g.whole(0)))
    results = (
        _whole_pixels(first, first.MatMul(_whole_pixels(first, first.MatMul(down, planes)), right)),
        _whole_pixels(then, then.MatMul(down, _whole_pixels(then, then.MatMul(planes, right)))),
    )
    shape = ["batch", 3, rows.square.size, rows.square.size]
    branches = [
        helper.make_graph(
            branch.nodes, branch.name, [], [helper.make_tensor_value_info(result, TensorProto.FLOAT, shape)]
        )
        for branch, result in zip((first, then), results, strict=True)
    ]
    return g.If(rows_first, then_branch=branches[0], else_branch=branches[1])


def _joined(g: _Graph, scalars: Sequence[str]) -> str:
    return g.Concat(*(g.Unsqueeze(scalar, g.vector(0)) for scalar in scalars), axis=0)


def _whole_pixels(g: _Graph, values: str) -> str:
    """Rounded half up and clipped to 0..255, as Pillow does it."""
    return g.Clip(g.Floor(g.Add(values, g.real(0.5))), g.real(0), g.real(255))
