"""Families of timm whose features are not one map or one sequence: given that shape, their own heads unmodified.

An adapted model is a classifier like any other: `forward_features`, `forward_head` on what that gives, and `forward`.
A family is a class here that names the classes of timm that it is for; nothing else has to know it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from relabel.teacher.heads.class_attention import shared_copy, weighted_twin


class Adapted(nn.Module):
    """A timm model whose head takes features of a known layout; `output_fmt` is theirs."""

    names: ClassVar[tuple[str, ...]] = ()
    """Of timm's classes: by name, so that nothing of timm is imported for a model that is not timm's."""

    output_fmt = "NCHW"
    num_prefix_tokens = 0
    grid_hw: tuple[int, int] | None = None
    """Of features that are tokens, where they are no square cells of the image."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def for_one(self, count: int) -> Adapted:
        """What answers for one location in the place of `count` equal ones: most heads as they are."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """The model's own answer (B, C)."""
        logits: Tensor = self.model(images)
        return logits

    def forward_features(self, images: Tensor) -> Tensor:
        """Features in the layout of `output_fmt`; where nothing else is said, the model's own."""
        features: Tensor = self.model.forward_features(images)
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """The model's own answer to such features (B, C)."""
        logits: Tensor = self.model.forward_head(features)
        return logits


class ClassAttention(Adapted):
    """CaiT, XCiT, VOLO: no location passes through the last blocks, which attend to them from the class token.

    So those blocks belong to the head, and the features (B, D, H, W) are what they are given.
    """

    names = ("Cait", "Xcit", "VOLO")

    def forward_features(self, images: Tensor) -> Tensor:
        """What the class token attends to."""
        features: Tensor = self.model.forward_intermediates(images, indices=1, intermediates_only=True)[-1]
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """Class attention over all locations, norm, classifier."""
        tokens = self.model.forward_cls(features.flatten(2).transpose(1, 2))
        logits: Tensor = self.model.forward_head(self.model.norm(tokens))
        return logits

    def for_one(self, count: int) -> ClassAttention:
        """The same on one location (B, D, 1, 1), which weighs as much as `count` copies of it."""
        return ClassAttention(weighted_twin(self.model, count))


class ClassTokens(Adapted):
    """PiT: its features are class tokens only, and its head reads no others.

    Here its locations follow them, through the same norm (B, L, D).
    """

    names = ("PoolingVisionTransformer",)
    output_fmt = "NLC"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.num_prefix_tokens = model.num_tokens

    def forward_features(self, images: Tensor) -> Tensor:
        """Class tokens, then locations."""
        tokens, maps = self.model.forward_intermediates(images, indices=1)
        return torch.cat([tokens, self.model.norm(maps[-1].flatten(2).transpose(1, 2))], dim=1)


class Branches(Adapted):
    """CoaT, CrossViT: several sequences, each with a class token, of grids of different sizes.

    The features (B, 1 + H * W, all D) are theirs side by side, coarser ones resampled to the finest grid.
    """

    names = ("CoaT", "CrossVit")
    output_fmt = "NLC"
    num_prefix_tokens = 1

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if hasattr(model, "embed_dims"):
            self._depths = list(model.embed_dims[1 if model.parallel_depth else -1 :])
        else:
            self._depths = list(model.embed_dim)
        embeddings: list[Any] = [m for m in model.modules() if type(m).__name__ == "PatchEmbed"]
        self._grids_hw = [
            (e.img_size[0] // e.patch_size[0], e.img_size[1] // e.patch_size[1])
            for e in embeddings[-len(self._depths) :]
        ]
        self.grid_hw = max(self._grids_hw)

    def forward_features(self, images: Tensor) -> Tensor:
        """The branches side by side on the finest grid."""
        found: Any = self.model.forward_features(images)
        branches = [found] if isinstance(found, Tensor) else found
        return torch.cat([self._finest(b, hw) for b, hw in zip(branches, self._grids_hw, strict=True)], dim=2)

    def forward_head(self, features: Tensor) -> Tensor:
        """Each branch through its own part of the model's head."""
        branches = list(torch.split(features, self._depths, dim=2))
        logits: Tensor = self.model.forward_head(branches if len(branches) > 1 else branches[0])
        return logits

    def _finest(self, tokens: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        if grid_hw == self.grid_hw:
            return tokens
        places = tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, *grid_hw)
        fine = nn.functional.interpolate(places, self.grid_hw, mode="bilinear", align_corners=False)
        return torch.cat([tokens[:, :1], fine.flatten(2).transpose(1, 2)], dim=1)


class OneBody(Adapted):
    """TNT, MViTv2: halves of a plain transformer, whose class token passes the locations' blocks as one of them.

    Locations get more besides, from their pixels or by pooling, so that `class_tokens` cannot see it.
    """

    names = ("TNT", "MultiScaleVit")
    output_fmt = "NLC"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.num_prefix_tokens = model.num_prefix_tokens


class States(Adapted):
    """EfficientViM: hidden states of the whole image beside the last map, each averaged by the head.

    The states say nothing of places: in the features (B, all D, H, W) their mean stands at every location.
    """

    names = ("EfficientViM",)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._depths = [*model.embed_dim, model.embed_dim[-1]]

    def forward_features(self, images: Tensor) -> Tensor:
        """The states' means, and the last map."""
        (*states, last), maps = self.model.forward_intermediates(images, indices=1)
        size_hw = maps[-1].shape[2:]
        means = [state.mean(-1)[:, :, None, None].expand(-1, -1, *size_hw) for state in states]
        return torch.cat([*means, last.unflatten(2, size_hw)], dim=1)

    def forward_head(self, features: Tensor) -> Tensor:
        """The model's own, on each part."""
        logits: Tensor = self.model.forward_head(
            [part.flatten(2) for part in torch.split(features, self._depths, dim=1)]
        )
        return logits


_FAMILIES = {name: family for family in Adapted.__subclasses__() for name in family.names}


def adapted(model: nn.Module) -> Adapted | None:
    """A model of one of these families, or a module around one, as the one-cell method can take it; None for others.

    A class that is derived from a family's is taken as it: what it does otherwise, the proof finds.
    """
    if (family := _family(model)) is not None:
        return family(model)
    inner = [(name, family(m)) for name, m in model.named_modules() if (family := _family(m)) is not None]
    return _Wrapped(model, *inner[0]) if len(inner) == 1 else None


def _family(model: nn.Module) -> type[Adapted] | None:
    kinds = (kind for kind in type(model).__mro__ if kind.__module__.partition(".")[0] == "timm")
    return next((_FAMILIES[kind.__name__] for kind in kinds if kind.__name__ in _FAMILIES), None)


class _Wrapped(Adapted):
    """A module that gives images, changed or not, to a model of a family, and answers what that answers."""

    def __init__(self, model: nn.Module, place: str, inner: Adapted) -> None:
        super().__init__(model)
        self.inner = inner
        self.output_fmt, self.num_prefix_tokens = inner.output_fmt, inner.num_prefix_tokens
        self.grid_hw = inner.grid_hw
        self._body = shared_copy(model)
        parent, _, name = place.rpartition(".")
        setattr(self._body.get_submodule(parent), name, _Body(inner))

    def forward_features(self, images: Tensor) -> Tensor:
        features: Tensor = self._body(images)
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        return self.inner.forward_head(features)

    def for_one(self, count: int) -> Adapted:
        return self.inner.for_one(count)


class _Body(nn.Module):
    def __init__(self, model: Adapted) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_features(images)
