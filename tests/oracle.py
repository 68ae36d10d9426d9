"""What relabel must compute, restated slowly in float64 numpy. It imports neither relabel nor torch.

Sizes are (height, width), boxes (x0, y0, x1, y1) in fractions of the whole image, maps ``[..., y, x]``. Everything here
is of one image and one box; there is no batch axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
WHOLE = (0.0, 0.0, 1.0, 1.0)


def softmax(scores: ArrayLike, axis: int = 0) -> Array:
    """Probabilities along an axis."""
    scores = np.asarray(scores, np.float64)
    exponentials = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def log_softmax(scores: ArrayLike, axis: int = 0) -> Array:
    """Log-probabilities along an axis."""
    shifted = np.asarray(scores, np.float64)
    shifted = shifted - shifted.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def averaged(answers: ArrayLike, axis: int = 1) -> Array:
    """Log-probabilities of the average of several answers, the first axis: the mean of their logs, renormalised."""
    return log_softmax(log_softmax(answers, axis=axis).mean(axis=0), axis=axis - 1)


def kl_divergence(truth: Array, label: Array) -> float:
    """KL(truth || label) of two distributions (C,), in nats; infinite where the label excludes what is true."""
    true = truth > 0
    with np.errstate(divide="ignore"):
        return float((truth[true] * (np.log(truth[true]) - np.log(label[true]))).sum())


def box_in_cells(box_xyxy: ArrayLike, grid_hw: tuple[int, int], footprint_xyxy: ArrayLike = WHOLE) -> Array:
    """(x0, y0, x1, y1) in cells of a map of the footprint: x in [0, W], y in [0, H] where the map covers it."""
    x0, y0, x1, y1 = np.asarray(box_xyxy, np.float64)
    left, top, right, bottom = np.asarray(footprint_xyxy, np.float64)
    height, width = grid_hw
    return np.array(
        [
            (x0 - left) / (right - left) * width,
            (y0 - top) / (bottom - top) * height,
            (x1 - left) / (right - left) * width,
            (y1 - top) / (bottom - top) * height,
        ]
    )


def random_boxes(count: int, seed: int, smallest: float, *, outside: float = 0.0) -> Array:
    """(count, 4) boxes with sides from `smallest` to 1, log-uniform, that reach at most `outside` over the image."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(math.log(smallest), 0, (count, 2)))
    starts = rng.uniform(-outside, 1 - sides + outside)
    return np.concatenate([starts, starts + sides], axis=1)


def sample(maps: Array, y: float, x: float) -> Array:
    """(P,) bilinear values of maps (P, H, W) where cell (r, c) has its value at y = r, x = c.

    0 more than one cell outside the outermost values, and their value up to there: RoIAlign's border.
    """
    height, width = maps.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(len(maps))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    row, column = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    below, right = min(row + 1, height - 1), min(column + 1, width - 1)
    dy, dx = y - row, x - column
    upper = maps[:, row, column] * (1 - dx) + maps[:, row, right] * dx
    lower = maps[:, below, column] * (1 - dx) + maps[:, below, right] * dx
    return np.asarray(upper * (1 - dy) + lower * dy)


def roi_align(maps: Array, cells_xyxy: Array, size_hw: tuple[int, int] = (1, 1)) -> Array:
    """(P, h, w) of maps (P, H, W): torchvision's roi_align with aligned=True and sampling_ratio=-1, bin by bin.

    The number of samples of a bin jumps where its length crosses an integer, so the order of this arithmetic is part of
    the definition.
    """
    x0, y0, x1, y1 = cells_xyxy - 0.5
    bin_h, bin_w = (y1 - y0) / size_hw[0], (x1 - x0) / size_hw[1]
    down, across = max(math.ceil(bin_h), 1), max(math.ceil(bin_w), 1)
    pooled = np.zeros((len(maps), *size_hw))
    for row, column in np.ndindex(size_hw):
        for i, j in np.ndindex(down, across):
            y = y0 + row * bin_h + (i + 0.5) * bin_h / down
            x = x0 + column * bin_w + (j + 0.5) * bin_w / across
            pooled[:, row, column] += sample(maps, y, x) / (down * across)
    return pooled


def covered_roi_align(maps: Array, cells_xyxy: Array, size_hw: tuple[int, int] = (1, 1)) -> Array:
    """`roi_align` over the part of each bin that the map covers: divided by that of a map of ones."""
    return roi_align(maps, cells_xyxy, size_hw) / roi_align(np.ones((1, *maps.shape[1:])), cells_xyxy, size_hw)


def affine_in_cells(matrix: ArrayLike, grid_hw: tuple[int, int], footprint_xyxy: ArrayLike = WHOLE) -> Array:
    """(2, 3), from fractions (u, v, 1) of what a view shows to cells of a map, x in [0, W] and y in [0, H]."""
    left, top, right, bottom = np.asarray(footprint_xyxy, np.float64)
    height, width = grid_hw
    to_cells = np.array(
        [
            [width / (right - left), 0, -left * width / (right - left)],
            [0, height / (bottom - top), -top * height / (bottom - top)],
        ]
    )
    return np.asarray(to_cells @ np.array([*np.asarray(matrix, np.float64), (0, 0, 1)]))


def affine_align(maps: Array, in_cells: Array, size_hw: tuple[int, int] = (1, 1)) -> tuple[Array, Array]:
    """RoIAlign of maps (P, H, W) over the parallelograms of an affine view, over what the map covers: (P, h, w).

    As many samples along an edge of a bin as it is cells long, rounded up; those more than half a cell outside the map
    do not count. Also how many samples each bin has left, (h, w).
    """
    height, width = maps.shape[1:]
    edge_u, edge_v, origin = in_cells[:, 0] / size_hw[1], in_cells[:, 1] / size_hw[0], in_cells[:, 2] - 0.5
    across, down = (max(math.ceil(math.hypot(*edge) - 1e-6), 1) for edge in (edge_u, edge_v))
    pooled, left = np.zeros((len(maps), *size_hw)), np.zeros(size_hw)
    for row, column in np.ndindex(size_hw):
        for i, j in np.ndindex(down, across):
            x, y = origin + edge_u * (column + (j + 0.5) / across) + edge_v * (row + (i + 0.5) / down)
            if -1 <= x <= width and -1 <= y <= height:
                pooled[:, row, column] += sample(maps, y, x)
                left[row, column] += 1
    with np.errstate(invalid="ignore"):
        return pooled / left, left


def resampled(maps: Array, in_cells: Array, size_hw: tuple[int, int], fine: int) -> tuple[Array, Array]:
    """The mean of a map over each bin of an affine view as an image of the map would have it: (P, h, w).

    The map is drawn `fine` points a bin each way, bilinear between its cells' centres, and points outside it are left
    out. Also the share of points that lie on it, (h, w).
    """
    height, width = maps.shape[1:]
    v, u = ((np.arange(bins * fine) + 0.5) / (bins * fine) for bins in size_hw)
    x, y = (row[0] * u[None, :] + row[1] * v[:, None] + row[2] for row in in_cells)
    is_on = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    x, y = (np.clip(place - 0.5, 0, cells - 1) for place, cells in ((x, width), (y, height)))
    column, line = (np.minimum(place.astype(int), max(cells - 2, 0)) for place, cells in ((x, width), (y, height)))
    beside, below = np.minimum(column + 1, width - 1), np.minimum(line + 1, height - 1)
    dx, dy = x - column, y - line
    drawn = (maps[:, line, column] * (1 - dx) + maps[:, line, beside] * dx) * (1 - dy)
    drawn += (maps[:, below, column] * (1 - dx) + maps[:, below, beside] * dx) * dy

    def by_bin(values: Array) -> Array:
        return np.asarray(values.reshape(*values.shape[:-2], size_hw[0], fine, size_hw[1], fine).sum((-3, -1)))

    count = by_bin(is_on.astype(np.float64))
    with np.errstate(invalid="ignore"):
        return by_bin(drawn * is_on) / count, count / fine**2


def covered_fraction(cells_xyxy: Array, grid_hw: tuple[int, int]) -> float:
    """How much of a box's area lies in the map."""
    x0, y0, x1, y1 = cells_xyxy
    across = max(min(x1, grid_hw[1]) - max(x0, 0), 0)
    down = max(min(y1, grid_hw[0]) - max(y0, 0), 0)
    return float(across * down / ((x1 - x0) * (y1 - y0)))


@dataclass(frozen=True)
class Map:
    """The score map of one image: classes (K + M,), planes (K, H, W), rest (H, W), profile (M + 1,), all in nats."""

    classes: NDArray[np.int64]
    planes: Array
    rest: Array
    profile: Array
    num_classes: int

    @property
    def others(self) -> NDArray[np.int64]:
        """The classes that are neither planes nor in the profile."""
        return np.setdiff1d(np.arange(self.num_classes), self.classes)


def class_weights(logits: ArrayLike) -> Array:
    """(C,) how much each class of logits (C, H, W) matters: its mean label in the image and in 27 windows of it."""
    scores = log_softmax(logits)
    boxes = [(0.0, 0.0, 1.0, 1.0)]
    for side in (2 / 3, 1 / 2, 1 / 3):
        starts = np.linspace(0, 1 - side, 3)
        boxes += [(x, y, x + side, y + side) for y in starts for x in starts]
    labels = [softmax(roi_align(scores, box_in_cells(box, scores.shape[1:]))[:, 0, 0]) for box in boxes]
    return np.mean(labels, axis=0)


def score_map(logits: ArrayLike, planes: int, profile: int) -> Map:
    """The score map of logits (C, H, W): K + M is cut to C where there are fewer classes."""
    scores = log_softmax(logits)
    count = len(scores)
    classes = np.argsort(-class_weights(logits), kind="stable")[: planes + profile]
    kept, profiled = classes[:planes], classes[planes:]
    left = np.setdiff1d(np.arange(count), kept)
    rest = scores[left].mean(axis=0) if len(left) else scores[kept].min(axis=0)
    offsets = scores.mean(axis=(1, 2)) - rest.mean()
    others = np.setdiff1d(left, profiled)
    residual = np.log(np.exp(offsets[others]).mean()) if len(others) else 0.0
    return Map(classes, scores[kept], rest, np.append(offsets[profiled], residual), count)


def expand(stored: Map) -> Array:
    """(C, H, W): what a score map says of every class's log-probability at every cell."""
    count = len(stored.planes)
    dense = np.empty((stored.num_classes, *stored.rest.shape))
    dense[stored.classes[:count]] = stored.planes
    dense[stored.classes[count:]] = stored.rest + stored.profile[:-1, None, None]
    dense[stored.others] = stored.rest + stored.profile[-1]
    return dense


def expand_probabilities(stored: Map) -> Array:
    """(C, H, W): what a score map says of every class's probability at every cell; sums to 1.

    The planes' are known, and what they leave is shared by the profile. It is at least what the rest plane allows:
    the mean of logs is at most the log of the mean.
    """
    count = len(stored.planes)
    dense = np.exp(expand(stored))
    known = dense[stored.classes[:count]].sum(axis=0)
    left = np.setdiff1d(np.arange(stored.num_classes), stored.classes[:count])
    if len(left):
        offsets = np.full(stored.num_classes, stored.profile[-1])
        offsets[stored.classes[count:]] = stored.profile[:-1]
        dense[left] = softmax(offsets[left])[:, None, None] * np.maximum(1 - known, len(left) * np.exp(stored.rest))
    return np.asarray(dense / dense.sum(axis=0))


def label(
    stored: Map,
    box_xyxy: ArrayLike,
    size_hw: tuple[int, int] = (1, 1),
    *,
    footprint_xyxy: ArrayLike = WHOLE,
    space: str = "logit",
) -> Array:
    """(C, h, w) soft labels of one crop: pooled scores, then softmax; or pooled probabilities."""
    cells = box_in_cells(box_xyxy, stored.rest.shape, footprint_xyxy)
    if space == "probability":
        return covered_roi_align(expand_probabilities(stored), cells, size_hw)
    return softmax(covered_roi_align(expand(stored), cells, size_hw))


def read_label(
    dense: ArrayLike, box_xyxy: Sequence[float], numbers: Sequence[float], size_hw: tuple[int, int] = (1, 1)
) -> Array:
    """(C, h, w) of dense scores (C, H, W): softmax((a + b log area) pooled + (c + d log area) whole)."""
    scores = np.asarray(dense, np.float64)
    a, b, c, d = numbers
    x0, y0, x1, y1 = box_xyxy
    log_area = np.log(min(max((x1 - x0) * (y1 - y0), 0.08), 1.0))
    pooled = covered_roi_align(scores, box_in_cells(box_xyxy, scores.shape[1:]), size_hw)
    return softmax((a + b * log_area) * pooled + (c + d * log_area) * scores.mean((1, 2))[:, None, None])


def full_label(logits: ArrayLike, box_xyxy: ArrayLike, size_hw: tuple[int, int] = (1, 1)) -> Array:
    """(C, h, w) soft labels of one crop from all logits (C, H, W): what a score map approximates."""
    scores = log_softmax(logits)
    return softmax(covered_roi_align(scores, box_in_cells(box_xyxy, scores.shape[1:]), size_hw))


def zero_filled(classes: ArrayLike, logits: ArrayLike, num_classes: int) -> Array:
    """(C, H, W) of the published per-cell lists (k, H, W): the logits of the listed classes, 0 for all others."""
    classes, logits = np.asarray(classes, np.int64), np.asarray(logits, np.float64)
    dense = np.zeros((num_classes, *logits.shape[1:]))
    np.put_along_axis(dense, classes, logits, axis=0)
    return dense


def cross_entropy(logits: ArrayLike, label: ArrayLike) -> float:
    """Of one label (C,) and one row of logits (C,), in nats; the label need not sum to 1."""
    return -float(sum(share * score for share, score in zip(label, log_softmax(logits), strict=True)))


def soft_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> float:
    """The mean over rows of logits (n, C) and labels (n, C)."""
    return float(np.mean([cross_entropy(*row) for row in zip(logits, labels, strict=True)]))


def kept_share(inside: ArrayLike, grid_hw: tuple[int, int]) -> Array:
    """(h, w): of each cell of a grid over an image, the share of its area outside a mask of pixels (H, W).

    Every pixel is cut into h x w, so that each cell holds whole pieces.
    """
    pieces = np.repeat(np.repeat(~np.asarray(inside, bool), grid_hw[0], axis=0), grid_hw[1], axis=1)
    height, width = np.shape(inside)
    return pieces.reshape(grid_hw[0], height, grid_hw[1], width).mean(axis=(1, 3))


def corrected_label(teacher: ArrayLike, truth: ArrayLike, agreed: float, doubtful: float) -> Array:
    """(C,): the teacher's label counts `agreed` where its first class is that of the truth, else `doubtful`."""
    teacher, truth = np.asarray(teacher, np.float64), np.asarray(truth, np.float64)
    share = agreed if np.argmax(teacher) == np.argmax(truth) else doubtful
    return share * teacher + (1 - share) * truth


def token_labeling_loss(
    logits: tuple[ArrayLike, ArrayLike],
    image_labels: ArrayLike,
    token_labels: ArrayLike,
    *,
    share: float,
    weight: float,
) -> float:
    """Of logits (B, C) and (B, N, C) and labels (B, C) and (B, C, h, w); images keep `share` of their own label."""
    images, tokens = np.asarray(logits[0], np.float64), np.asarray(logits[1], np.float64)
    labels, by_token = np.asarray(image_labels, np.float64), np.asarray(token_labels, np.float64)
    count, _, height, width = by_token.shape
    mixed = [share * labels[i] + (1 - share) * labels[count - 1 - i] for i in range(count)]
    losses = [
        cross_entropy(tokens[i, row * width + column], by_token[i, :, row, column])
        for i, row, column in np.ndindex(count, height, width)
    ]
    return soft_cross_entropy(images, mixed) + weight * float(np.mean(losses))
