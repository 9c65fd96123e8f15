"""What is done to tensors on their way from a checkpoint: rows reordered, numbers changed, axes moved.

Each is a `Step` of :class:`gguffast.conversion.architecture.Rule`: lazy, so that any of them streams.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from gguffast.conversion.architecture import VOCABULARY, Share, Size, Step
from gguffast.conversion.hparams import Hparams
from gguffast.errors import FormatError, quote
from gguffast.sources import lazy
from gguffast.sources.lazy import LazyTensor


def per_head(heads: Size) -> Step:
    """See the rows of a matrix as a stack of matrices, one for each head."""

    def step(tensor: LazyTensor, h: Hparams) -> LazyTensor:
        rows, columns = tensor.shape
        return lazy.reshape(tensor, (heads(h), rows // heads(h), columns))

    return step


def plus_one(tensor: LazyTensor, h: Hparams) -> LazyTensor:
    """Add 1: norms that are stored as offsets from it."""
    return lazy.map_f32(tensor, lambda values: values + np.float32(1))


def minus_exp(tensor: LazyTensor, h: Hparams) -> LazyTensor:
    """Give -exp(x), correctly rounded: state-space models store the logarithm of their decay.

    The reference takes PyTorch's, which is that of Intel's library: off by one in the last bit for one number
    in a hundred, and not the same on every processor.
    """
    return lazy.map_f32(tensor, lambda values: -np.exp(values.astype(np.float64)).astype(np.float32))


def squeeze(tensor: LazyTensor, h: Hparams) -> LazyTensor:
    """Leave out the axes of length 1, as convolutions over each channel alone have one."""
    return lazy.reshape(tensor, [length for length in tensor.shape if length != 1])


def as_column(tensor: LazyTensor, h: Hparams) -> LazyTensor:
    """Make each number of a vector a row: Mamba 2 has one a head where Mamba 1 had a row."""
    return lazy.reshape(tensor, (*tensor.shape, 1))


def grouped(groups: Size) -> Step:
    """Cut a vector into rows, one a group."""

    def step(tensor: LazyTensor, h: Hparams) -> LazyTensor:
        count = groups(h)
        _check_length(tensor, 0, tensor.shape[0] // count * count)
        return lazy.reshape(tensor, (count, tensor.shape[0] // count))

    return step


def without_first(rows: Size) -> Step:
    """Leave out so many rows at the beginning."""
    return lambda tensor, h: lazy.slice_rows(tensor, rows(h), tensor.shape[0])


def transpose(tensor: LazyTensor, h: Hparams) -> LazyTensor:
    """Swap the last two axes."""
    if len(tensor.shape) == 2:
        return lazy.transpose(tensor)
    *outer, rows, columns = tensor.shape
    stack, matrix = math.prod(outer), rows * columns
    swapped = lazy.strided(tensor, (stack, columns, rows), (matrix, 1, columns))
    return lazy.reshape(swapped, (*outer, columns, rows))


def cut_to_vocabulary(tensor: LazyTensor, h: Hparams) -> LazyTensor:
    """Leave out the rows beyond the tokenizer's tokens."""
    return lazy.slice_rows(tensor, 0, min(h.tokens, tensor.shape[0]))


def padded_to_vocabulary(tensor: LazyTensor, h: Hparams) -> LazyTensor:
    """Add rows of zeros for tokens of images and sounds, which stand behind the others."""
    return lazy.pad_rows(tensor, VOCABULARY(h))


def interleaved(heads: Size, height: Size | None = None) -> Step:
    """Interleave the halves of each head, row by row: llama.cpp rotates neighbours.

    Parameters
    ----------
    heads : Size
        Number of heads.
    height : Size, optional
        Rows that they have, the others stay; None: all.
    """

    def step(tensor: LazyTensor, h: Hparams) -> LazyTensor:
        rows, n = height(h) if height else tensor.shape[0], heads(h)
        if rows % (2 * n):
            raise FormatError(f"{rows} rows of a query or key projection do not make {n} heads of even width")
        moved = np.arange(rows, dtype=np.intp).reshape(n, 2, -1).transpose(0, 2, 1).reshape(-1)
        return lazy.permute_rows(
            tensor, np.concatenate([moved, np.arange(rows, tensor.shape[0], dtype=np.intp)])
        )

    return step


def reordered(tensor: LazyTensor, start: int, shape: tuple[int, ...], axes: tuple[int, ...]) -> LazyTensor:
    """See the rows from `start` on as an array of `shape`, and swap its axes.

    Parameters
    ----------
    tensor : LazyTensor
        What is reordered; elements, for a 1-D tensor.
    start : int
        Rows before this one stay where they are.
    shape, axes : tuple of int
        As in ``numpy.arange(n).reshape(shape).transpose(axes)``.
    """
    _check_length(tensor, 0, start + math.prod(shape))
    moved = np.arange(start, tensor.shape[0], dtype=np.intp).reshape(shape).transpose(axes).reshape(-1)
    return lazy.permute_rows(tensor, np.concatenate([np.arange(start, dtype=np.intp), moved]))


def reordered_columns(tensor: LazyTensor, shape: tuple[int, ...], axes: tuple[int, ...]) -> LazyTensor:
    """Do the same to the numbers within each row."""
    _check_length(tensor, -1, math.prod(shape))
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    view = lazy.strided(
        tensor,
        (tensor.n_rows, *(shape[axis] for axis in axes)),
        (tensor.n_columns, *(strides[axis] for axis in axes)),
    )
    return lazy.reshape(view, tensor.shape)


def _check_length(tensor: LazyTensor, axis: int, expected: int) -> None:
    if tensor.shape[axis] != expected:
        raise FormatError(
            f"tensor {quote(tensor.name)}: shape {list(tensor.shape)}, expected {expected} along axis {axis}"
        )


def tiled(groups: Size, per_group: Size, width: Size, start: Size = lambda h: 0) -> Step:
    """Reorder rows of heads that are stored group by group: the first of each group, then the second, ...

    Parameters
    ----------
    groups, per_group, width : Size
        Number of groups, heads in a group, rows of a head.
    start : Size
        Rows before the first head, which stay.
    """
    return lambda tensor, h: reordered(tensor, start(h), (groups(h), per_group(h), width(h)), (1, 0, 2))


def tiled_columns(groups: Size, per_group: Size, width: Size) -> Step:
    """Reorder columns likewise."""
    return lambda tensor, h: reordered_columns(tensor, (groups(h), per_group(h), width(h)), (1, 0, 2))


def ungrouped(groups: Size, *parts: Size) -> Step:
    """Bring rows that are stored group by group, several parts in each, into the order of the parts.

    Parameters
    ----------
    groups : Size
        Number of groups.
    *parts : Size
        Rows of each part of a group.
    """

    def step(tensor: LazyTensor, h: Hparams) -> LazyTensor:
        n, heights = groups(h), [part(h) for part in parts]
        _check_length(tensor, 0, n * sum(heights))
        rows = np.arange(tensor.shape[0], dtype=np.intp).reshape(n, -1)
        order = [part.reshape(-1) for part in np.split(rows, np.cumsum(heights)[:-1], axis=1)]
        return lazy.permute_rows(tensor, np.concatenate(order))

    return step


def share_rows(tensor: LazyTensor, heights: list[int]) -> list[LazyTensor]:
    """Cut a matrix, or each matrix of a stack, into bands of rows."""
    if len(tensor.shape) < 3:
        starts = np.cumsum([0, *heights]).tolist()
        return [lazy.slice_rows(tensor, a, b) for a, b in itertools.pairwise(starts)]
    count, rows, columns = tensor.shape
    bands, start = [], 0
    for height in heights:
        shape, stride = (count, height, columns), (rows * columns, columns, 1)
        bands.append(lazy.strided(tensor, shape, stride, start * columns))
        start += height
    return bands


def by_turns(axis: int) -> Share:
    """Deal the entries of an axis (-2: the rows) out one by one: to the first, the second, the first, ..."""

    def share(tensor: LazyTensor, heights: list[int]) -> list[LazyTensor]:
        count = len(heights)
        _check_length(tensor, axis, tensor.shape[axis] // count * count)
        shape = list(tensor.shape)
        stride = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        shape[axis], step = shape[axis] // count, stride[axis]
        stride[axis] *= count
        return [lazy.strided(tensor, shape, stride, i * step) for i in range(count)]

    return share
