"""Students: any classifier of timm's, and those that answer at each token besides, for token labels.

LV-ViT answers tokens by itself. A convolutional classifier does when its own, unmodified head is asked about every cell
of its last features, as the map's teacher was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipelines import lvvit
from pipelines.lvvit import LVViT, TokenAnswer
from pipelines.recipe import Recipe
from pipelines.starting import Start, created, load_first
from relabel.errors import InvalidValueError, RelabelError

_TOLERANCE = 1e-3  # far more than float32 sums in another order differ by, far less than another head does


class ConvTokens(nn.Module):
    """A convolutional classifier that answers each cell of its last features in training, for token labels.

    In training it returns a `lvvit.TokenAnswer`: image logits (B, C) as ever, token logits (B, N, C) with N = h * w,
    row-major, each what the model's head says of an image that looks like that cell everywhere. In evaluation it
    returns the image logits. `grid_hw` is the (h, w) of images of the size it was made with.

    Raises:
        InvalidValueError: the model's features are no map (B, D, h, w), or its head does more than to pool them.
    """

    def __init__(self, model: Any, image_size: int) -> None:
        super().__init__()
        self.model: Any = model
        self.grid_hw = self._proved(image_size)

    def forward(self, images: Tensor) -> Tensor | TokenAnswer:
        """Images (B, 3, h, w) to a `TokenAnswer` in training, to logits (B, C) in evaluation."""
        features = self.model.forward_features(images)
        image_logits = self.model.forward_head(features)
        return TokenAnswer(image_logits, self._token_logits(features), None) if self.training else image_logits

    def _token_logits(self, features: Tensor) -> Tensor:
        batch, channels, height, width = features.shape
        cells = features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
        logits: Tensor = self.model.forward_head(cells)
        return logits.reshape(batch, height * width, -1)

    def _proved(self, image_size: int) -> tuple[int, int]:
        """The grid, once the head has said the same of one cell and of a map that is that cell everywhere."""
        name = type(self.model).__name__
        way_out = "Take a convolutional model whose head pools and classifies (resnet50, convnext_tiny), or an LV-ViT"
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            try:
                features = self.model.forward_features(torch.randn(1, 3, image_size, image_size))
            except (RuntimeError, ValueError, AssertionError) as error:
                raise InvalidValueError(
                    f"{name} takes no images of {image_size} pixels: {str(error).partition(chr(10))[0]}"
                ) from error
            if features.ndim != 4 or features.shape[1] != self.model.num_features:
                raise InvalidValueError(
                    f"token labels need features (B, {self.model.num_features}, h, w), a map; {name} has "
                    f"{tuple(features.shape)}. {way_out}"
                )
            cell = features[:, :, :1, :1]
            try:
                one, everywhere = self._token_logits(cell)[:, 0], self.model.forward_head(cell.expand_as(features))
            except (RuntimeError, ValueError, IndexError) as error:
                raise InvalidValueError(
                    f"the head of {name} cannot answer one cell: {str(error).partition(chr(10))[0]}. {way_out}"
                ) from error
        self.model.train(was_training)
        if one.shape != everywhere.shape or (one - everywhere).abs().max() > _TOLERANCE * (1 + one.abs().max()):
            raise InvalidValueError(f"the head of {name} does more than to pool its features and classify. {way_out}")
        return features.shape[2], features.shape[3]


def build_student(recipe: Recipe, num_classes: int, start: Start | None = None, names: Sequence[str] = ()) -> nn.Module:
    """The recipe's model for images (B, 3, s, s) of its size and as many classes, with its first weights.

    They are random, timm's pretrained ones, or those of a start's file; `names` are the classes', by which its
    classifier is known to be theirs. In training it returns logits (B, C), and for target "token" a
    `lvvit.TokenAnswer`; in evaluation logits (B, C).

    Raises:
        InvalidValueError: no such model, an option or size that it does not take, or one that has no answer at each
            token where the target, or the mixing, asks for it.
    """
    tokens = recipe.target == "token"
    options: dict[str, Any] = dict(recipe.model_options)
    if recipe.drop_path:
        options["drop_path_rate"] = recipe.drop_path
    is_lvvit = recipe.model in lvvit.default_cfgs
    if is_lvvit:
        # A token head without a loss would only add noise to the answer, and stops DistributedDataParallel.
        mixed = tokens and recipe.mixing == "mixtoken"
        options |= {"token_head": tokens, "mix_token": mixed, "mix_alpha": recipe.mixing_alpha}
    elif recipe.mixing == "mixtoken":
        raise InvalidValueError(f"mixtoken mixes the tokens of an LV-ViT; {recipe.model} has none: take cutmix")
    try:
        model: Any = created(recipe, num_classes=num_classes, **options)
        if start is not None:
            load_first(model, start, names)
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=recipe.image_size)
    except RelabelError:
        raise
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise InvalidValueError(
            f"cannot build {recipe.model} for images of {recipe.image_size} pixels with {options}: {error}"
        ) from error
    return model if is_lvvit or not tokens else ConvTokens(model, recipe.image_size)


def token_grid_hw(student: nn.Module) -> tuple[int, int] | None:
    """(h, w) of the token labels that a student needs, None where it answers no tokens."""
    if (isinstance(student, LVViT) and student.aux_head is not None) or isinstance(student, ConvTokens):
        return student.grid_hw
    return None
