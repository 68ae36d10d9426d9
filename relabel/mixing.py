"""CutMix, Mixup and MixToken of images and their soft labels, dense or sparse, image labels or token labels.

The partner of image i in a batch of B is always image B - 1 - i, as in Token Labeling's code (ReLabel's draws a
permutation): the batch is shuffled already, and a flip is cheaper. What is random is drawn on the CPU, so that nothing
waits for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.errors import InvalidValueError
from relabel.labels import Labels, MixedLabels, SparseLabels
from relabel.tickets import softening

Draw = Literal["batch", "each"]
"""One draw for the whole batch, as published, or one for each image."""
Seed = int | torch.Generator | None
"""Of random numbers of one's own; a generator on the CPU; None takes torch's global one."""
_Boxes = NDArray[np.int64]
"""(n, 2, 2): of each box the first and the last plus one, of rows and of columns: ((y0, x0), (y1, x1))."""
_Unmixed = Tensor | SparseLabels
Mixed = tuple[Tensor, *tuple[Labels, ...]]
"""Images and their labels."""


class _Mixer:
    """What CutMix and Mixup share: their settings and their random numbers."""

    def __init__(
        self, alpha: float = 1.0, probability: float = 1.0, *, draw: Draw = "batch", seed: Seed = None
    ) -> None:
        if not 0 <= probability <= 1:
            raise InvalidValueError(f"probability must lie in [0, 1]; got {probability}")
        if draw not in ("batch", "each"):
            raise InvalidValueError(f"draw must be 'batch' (one for all images) or 'each'; got {draw!r}")
        self.alpha, self.probability, self.draw = _check_alpha(alpha), probability, draw
        self.generator = _own_generator(seed)

    def __call__(self, images: Tensor, *labels: Labels) -> Mixed:
        """Mix a batch with itself, reversed.

        Args:
            images: (B, channels, H, W), uint8 or floating, on any device, channels-last or not.
            labels: any number, each of B images: dense (B, C), dense token labels (B, C, h, w), or `SparseLabels`.

        Returns:
            The mixed images and labels, in the order given; sparse labels become `MixedLabels`. With probability
            1 - `probability` the very arguments.

        Raises:
            InvalidValueError: class ids in place of soft labels, labels mixed already, or shapes that disagree.
        """
        if images.ndim != 4 or not (images.is_floating_point() or images.dtype == torch.uint8):
            raise InvalidValueError(
                f"images must be (B, channels, H, W), uint8 or floating; got {tuple(images.shape)} of {images.dtype}"
            )
        checked = [_checked(each, len(images)) for each in labels]
        random = _random(self.generator)
        if random.random() >= self.probability or not len(images):
            return images, *labels
        return self._mix(random, images, checked)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(alpha={self.alpha}, probability={self.probability}, draw={self.draw!r})"

    def _mix(self, random: np.random.Generator, images: Tensor, labels: list[_Unmixed]) -> Mixed:
        raise NotImplementedError

    def _draw_shares(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """(B,) or (1,): what each image keeps of itself."""
        return random.beta(self.alpha, self.alpha, count if self.draw == "each" else 1)


class CutMix(_Mixer):
    """CutMix (arXiv 1905.04899): a box of each image is that of another one, and its labels follow.

    The box has the area 1 - lam, lam from Beta(alpha, alpha), a uniform centre, and is clipped to the image. An image's
    label keeps the share of pixels that the image keeps. Token labels are pasted, not blended: a token has the label of
    the image whose pixels it shows, and one that the box's border cuts has both by area. So the tokens' mean share is
    the image's share.

    Args:
        alpha: of the Beta distribution; 1 is uniform.
        probability: of mixing a batch at all.
        draw: "batch", one box for all images, as published, or "each", a box an image.
        seed: of random numbers of its own; or a `torch.Generator` on the CPU; None takes torch's global one. Give each
            rank of a parallel training its own seed, and in a loader's workers None, or all draw alike.

    >>> import torch
    >>> images, labels = torch.rand(8, 3, 32, 32), torch.eye(8)
    >>> images, labels = CutMix(seed=0)(images, labels)
    >>> labels.sum(1).allclose(torch.ones(8))
    True
    """

    def _mix(self, random: np.random.Generator, images: Tensor, labels: list[_Unmixed]) -> Mixed:
        image_hw = (images.shape[2], images.shape[3])
        boxes = _draw_boxes(random, self._draw_shares(random, len(images)), image_hw)
        rows, cols = (_move(axis.bool(), images.device) for axis in _cover(boxes, image_hw, image_hw))
        mixed = torch.where((rows[:, :, None] & cols[:, None, :]).unsqueeze(1), images.flip(0), images)
        return mixed, *(_mixed(each, _kept(boxes, image_hw, _size_hw(each) or (1, 1))) for each in labels)


class Mixup(_Mixer):
    """Mixup (arXiv 1710.09412): each image is blended with another one, and so are its labels, those of tokens too.

    An image keeps lam of itself, from Beta(alpha, alpha). uint8 images are blended in float32 and rounded.

    Args:
        alpha, probability, seed: as `CutMix`.
        draw: "batch", one lam for all images, as published, or "each", one an image.
    """

    def _mix(self, random: np.random.Generator, images: Tensor, labels: list[_Unmixed]) -> Mixed:
        share = torch.from_numpy(self._draw_shares(random, len(images))).reshape(-1, 1, 1)
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        weight = _move(share.to(dtype), images.device).unsqueeze(1)
        blended = torch.lerp(images.flip(0).to(dtype), images.to(dtype), weight)
        if images.dtype == torch.uint8:
            blended = blended.round()
        return blended.to(images.dtype), *(_mixed(each, share) for each in labels)


@dataclass(frozen=True, slots=True, eq=False)
class TokenBox:
    """A box of MixToken on a student's token grid; the same one for all images of a batch.

    Attributes:
        mask: (h, w) bool, True where an image has its partner's tokens; on the device of the tokens.
        share: 1 - area / (h * w), what an image keeps of itself.
    """

    mask: Tensor
    share: float

    @classmethod
    def at(cls, rows: tuple[int, int], cols: tuple[int, int], grid_hw: tuple[int, int]) -> TokenBox:
        """The box of rows and columns [first, last) of a grid, on the CPU.

        >>> TokenBox.at(rows=(8, 14), cols=(0, 7), grid_hw=(14, 14)).share
        0.7857142857142857
        """
        (top, bottom), (left, right), (height, width) = rows, cols, grid_hw
        if not (0 <= top <= bottom <= height and 0 <= left <= right <= width and height and width):
            raise InvalidValueError(f"rows {rows} and columns {cols} must be [first, last) of a grid {grid_hw}")
        mask = torch.zeros(grid_hw, dtype=torch.bool, device="cpu")
        mask[top:bottom, left:right] = True
        return cls(mask, 1 - (bottom - top) * (right - left) / (height * width))

    def to(self, device: torch.device | str) -> TokenBox:
        """The same box on another device, without waiting for it."""
        return TokenBox(_move(self.mask, torch.device(device)), self.share)

    def paste(self, tokens: Tensor) -> Tensor:
        """Tokens with those of the reversed batch inside the box: mixes embedded patches, and un-mixes token logits.

        They are (B, N, D), row by row, N = h * w, or (B, h, w, D); another grid is an InvalidValueError.
        """
        inside = self.mask.flatten() if tokens.ndim == 3 else self.mask
        if tokens.shape[1:-1] != inside.shape:
            height, width = self.mask.shape
            raise InvalidValueError(
                f"a box of {height} x {width} tokens needs (B, {height * width}, D) without class token, or "
                f"(B, {height}, {width}, D); got {tuple(tokens.shape)}"
            )
        return torch.where(_move(inside, tokens.device).unsqueeze(-1), tokens.flip(0), tokens)

    def labels(self, image_labels: Labels) -> Labels:
        """The labels of the mixed images: share * label + (1 - share) * that of the reversed batch.

        Of `image_labels` (B, C), or `SparseLabels`, which become `MixedLabels`. Token labels are refused: they stay.
        Either this, or `share` for the loss; both would mix twice.
        """
        labels = _checked(image_labels, len(image_labels))
        if _size_hw(labels) is not None:
            raise InvalidValueError("token labels stay with their own image: un-mix the token logits by `paste`")
        return _mixed(labels, torch.full((1, 1, 1), self.share, dtype=torch.float64, device="cpu"))


class MixToken:
    """MixToken (Token Labeling, arXiv 2104.10858): CutMix of embedded patches, one box for all images of a batch.

    The box is in whole tokens: its sides are those of the grid times sqrt(1 - lam), rounded down to even numbers, lam
    from Beta(alpha, alpha), its centre uniform, and it is clipped to the grid. It may be empty, and on 2 x 2 tokens is.

    Args:
        alpha: of the Beta distribution; 1 is uniform.
        seed: as `CutMix`.

    >>> import torch
    >>> box = MixToken(seed=0).draw((4, 4))
    >>> tokens = torch.rand(2, 16, 8)
    >>> bool((box.paste(box.paste(tokens)) == tokens).all())
    True
    """

    def __init__(self, alpha: float = 1.0, *, seed: Seed = None) -> None:
        self.alpha, self.generator = _check_alpha(alpha), _own_generator(seed)

    def draw(self, grid_hw: tuple[int, int], device: torch.device | str = "cpu") -> TokenBox:
        """A box on a grid of (h, w) tokens, on the device of the tokens."""
        random = _random(self.generator)
        boxes = _draw_boxes(random, random.beta(self.alpha, self.alpha, 1), grid_hw)
        (top, left), (bottom, right) = boxes[0].tolist()
        return TokenBox.at((top, bottom), (left, right), grid_hw).to(device)

    def __repr__(self) -> str:
        return f"MixToken(alpha={self.alpha})"


def _check_alpha(alpha: float) -> float:
    if not 0 < alpha < math.inf:
        raise InvalidValueError(f"alpha of Beta(alpha, alpha) must be above 0 and finite; got {alpha}")
    return alpha


def _own_generator(seed: Seed) -> torch.Generator | None:
    generator = seed if seed is None or isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    if generator is not None and generator.device.type != "cpu":
        raise InvalidValueError(f"a generator must be on the CPU, where boxes are drawn; got {generator.device}")
    return generator


def _random(generator: torch.Generator | None) -> np.random.Generator:
    """numpy's random numbers, which know the beta distribution, from the next number of torch's generator."""
    return np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator, device="cpu")))


def _draw_boxes(random: np.random.Generator, shares: NDArray[np.float64], grid_hw: tuple[int, int]) -> _Boxes:
    """Boxes that leave about `shares` (n,), each between 0 and 1, of a grid of pixels or tokens."""
    half = (np.sqrt(1 - shares)[:, None] * grid_hw).astype(np.int64) // 2
    centres = random.integers(0, grid_hw, half.shape)
    return np.clip(np.stack([centres - half, centres + half], axis=1), 0, grid_hw)


def _cover(boxes: _Boxes, image_hw: tuple[int, int], grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(n, h) and (n, w) float64: how much of each row and column of a grid over the image the boxes cover."""

    def along(axis: int) -> Tensor:
        length, count = image_hw[axis], grid_hw[axis]
        edges = np.arange(count + 1) * length / count
        last, first = boxes[:, 1, axis, None], boxes[:, 0, axis, None]
        inside = np.minimum(last, edges[1:]) - np.maximum(first, edges[:-1])
        return torch.from_numpy(inside.clip(0) * (count / length))

    return along(0), along(1)


def _kept(boxes: _Boxes, image_hw: tuple[int, int], grid_hw: tuple[int, int]) -> Tensor:
    """(n, h, w) float64: how much of each cell of a grid over the image the boxes leave."""
    rows, cols = _cover(boxes, image_hw, grid_hw)
    return 1 - rows[:, :, None] * cols[:, None, :]


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """To a device without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _mixed(labels: _Unmixed, share: Tensor) -> Tensor | MixedLabels:
    """Checked labels, of which `share` (n, 1, 1) or (n, h, w) stays, n being 1 or B."""
    if isinstance(labels, Tensor):
        weight = _move(share.to(labels.dtype), labels.device)
        weight = weight.reshape(-1, 1) if labels.ndim == 2 else weight.unsqueeze(1)
        return torch.lerp(labels.flip(0), labels, weight)  # exact where the share is 0 or 1
    backwards = torch.arange(len(labels) - 1, -1, -1, device=labels.other.device)
    share = _move(share.to(labels.other.dtype), labels.other.device)
    share = share.flatten() if share.shape[1:] == (1, 1) else share
    return MixedLabels(labels, labels[backwards], share.expand(len(labels), *share.shape[1:]))


def _size_hw(labels: _Unmixed) -> tuple[int, int] | None:
    if isinstance(labels, Tensor):
        return None if labels.ndim == 2 else (labels.shape[2], labels.shape[3])
    return labels.size_hw


def _checked(labels: Labels, count: int) -> _Unmixed:
    """The labels, if they are soft labels of `count` images that are not mixed yet."""
    if isinstance(labels, MixedLabels):
        raise InvalidValueError("labels are mixed already; mix once, or give the dense labels, `labels.dense()`")
    if not isinstance(labels, Tensor | SparseLabels):
        raise InvalidValueError(f"labels must be a Tensor or SparseLabels; got {type(labels).__name__}")
    if isinstance(labels, Tensor) and (labels.ndim not in (2, 4) or not labels.is_floating_point()):
        raise InvalidValueError(
            "labels to mix are floating soft labels (B, C), or (B, C, h, w) of tokens; "
            f"got {tuple(labels.shape)} of {labels.dtype}. {softening(labels)}"
        )
    if len(labels) != count:
        raise InvalidValueError(f"{count} images need as many labels; got {len(labels)}")
    return labels
