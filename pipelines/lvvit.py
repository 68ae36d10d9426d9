"""LV-ViT, the student of Token Labeling (arXiv 2104.10858), on timm's vision transformer.

Imported, it registers `lvvit_t`, `lvvit_s`, `lvvit_m`, `lvvit_l` and `lvvit_demo` with timm. Against a plain ViT:

- the patches come out of a convolutional stem: 7x7 with stride 2, two of 3x3, then patches of its map, half as large as
  the image's;
- each residual branch is divided by `residual_scale`, queries, keys and values have no bias, and the MLPs are 3 wide;
- a second linear head, `aux_head`, answers at each patch token, and learns from the token labels;
- in training MixToken puts a box of another image's tokens into each image, behind the stem, so that no patch shows two
  images. What the token head answers there goes back to the image that the tokens came from.

Parameters have the names of the published weights (zihangJiang/TokenLabeling), and answers are those of its code.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from relabel.errors import InvalidValueError
from relabel.mixing import MixToken, TokenBox

_STD = 0.02  # as timm and the authors start every linear layer


class TokenAnswer(NamedTuple):
    """What LV-ViT answers in training.

    `image_logits` is (B, C); `token_logits` is (B, N, C), row-major, un-mixed, so that they belong with each image's
    own token labels; `box` is MixToken's, None where nothing was mixed. Image labels are mixed by ``box.labels``.
    """

    image_logits: Tensor
    token_logits: Tensor
    box: TokenBox | None

    @property
    def share(self) -> float:
        """What an image's own label counts in its image logits, in [0, 1]."""
        return 1.0 if self.box is None else self.box.share


class ConvPatchEmbed(PatchEmbed):
    """Images (B, in_chans, h, w) to patch tokens (B, N, D), row-major: a stem of stride 2, then patches of its map.

    Raises:
        InvalidValueError: an odd patch size, or images that the patches do not tile.
    """

    def __init__(
        self, *, stem_width: int, patch_size: Any = 16, in_chans: int = 3, embed_dim: int = 768, **options: Any
    ):
        super().__init__(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **options)
        if any(side % 2 for side in self.patch_size):
            raise InvalidValueError(f"patch_size must be even, for the stem halves images; got {self.patch_size}")
        if self.dynamic_img_pad:
            raise InvalidValueError("LV-ViT does not pad its images; leave dynamic_img_pad out")
        self._check_tiled(self.img_size)
        place = {name: options[name] for name in ("device", "dtype") if name in options}
        conv: Any = partial(nn.Conv2d, bias=False, **place)
        self.conv1, self.bn1 = conv(in_chans, stem_width, 7, 2, 3), nn.BatchNorm2d(stem_width, **place)
        self.conv2, self.bn2 = conv(stem_width, stem_width, 3, 1, 1), nn.BatchNorm2d(stem_width, **place)
        self.conv3, self.bn3 = conv(stem_width, stem_width, 3, 1, 1), nn.BatchNorm2d(stem_width, **place)
        halved = tuple(side // 2 for side in self.patch_size)
        self.proj = nn.Conv2d(stem_width, embed_dim, halved, halved, **place)

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """Take images of another (height, width)."""
        if patch_size is not None and patch_size not in (self.patch_size, self.patch_size[0]):
            raise InvalidValueError(f"the patches of an LV-ViT keep their size, {self.patch_size}; got {patch_size}")
        self._check_tiled(img_size or self.img_size)
        super().set_input_size(img_size=img_size)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D), or (B, H, W, D) for a model of `dynamic_img_size`."""
        size_hw = tuple(images.shape[-2:])
        if self.strict_img_size and size_hw != tuple(self.img_size):
            raise InvalidValueError(f"images must be {self.img_size}, or set img_size; got {size_hw}")
        self._check_tiled(size_hw)
        maps = images
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            maps = norm(conv(maps)).relu_()
        tokens: Tensor = self.proj(maps).permute(0, 2, 3, 1)
        return tokens.flatten(1, 2) if self.flatten else tokens

    def _check_tiled(self, size: Any) -> None:
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        if height % self.patch_size[0] or width % self.patch_size[1]:
            raise InvalidValueError(f"patches of {self.patch_size} pixels do not tile images of {(height, width)}")


class Scaled(nn.Module):
    """A residual branch divided by a constant."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, branch: Tensor) -> Tensor:
        """`branch` over the divisor."""
        return branch / self.divisor

    def extra_repr(self) -> str:
        """The divisor, where the model is printed."""
        return f"1 / {self.divisor:g}"


class LVViT(VisionTransformer):
    """A vision transformer (B, in_chans, h, w) -> logits that learns from token labels.

    In training it returns a `TokenAnswer`. In evaluation it returns logits (B, C): the image logits + `token_answer`
    times the largest token logit of each class, as published; with 0, the image logits alone. Without a token head
    (`token_head=False`, for targets without token labels: a head without a loss stops DistributedDataParallel), without
    classes, or with `global_pool=""` it returns what a ViT of timm's returns, in training too.

    Args:
        stem_width: channels of the convolutional stem.
        residual_scale: divides each residual branch.
        token_head: whether there is a head for the patch tokens.
        token_answer: what the largest token logits count in evaluation.
        mix_token: whether tokens are mixed in training; as an attribute, the `relabel.mixing.MixToken` or None, which
            may be set at any time.
        mix_alpha: of the Beta distribution that MixToken draws its share from.
        mix_seed: of MixToken's draws; processes that train together need different ones.
        options: of timm's VisionTransformer. `patch_size` is the image's; half of it is the stem map's.

    Raises:
        InvalidValueError: sizes that do not fit each other, or an option that token labels exclude.
    """

    def __init__(  # noqa: PLR0913 - timm builds models from keywords
        self,
        *,
        stem_width: int = 64,
        residual_scale: float = 1.0,
        token_head: bool = True,
        token_answer: float = 0.5,
        mix_token: bool = True,
        mix_alpha: float = 1.0,
        mix_seed: int | None = None,
        **options: Any,
    ) -> None:
        if token_head and options.get("patch_drop_rate"):
            raise InvalidValueError("token labels need every patch: leave patch_drop_rate out, or the token head")
        if not residual_scale > 0:
            raise InvalidValueError(f"residual_scale must be above 0; got {residual_scale}")
        ours: dict[str, Any] = {"qkv_bias": False, "mlp_ratio": 3.0, "norm_layer": nn.LayerNorm}
        super().__init__(embed_layer=partial(ConvPatchEmbed, stem_width=stem_width), **ours | options)
        self.token_answer = token_answer
        self.mix_token = MixToken(mix_alpha, seed=mix_seed) if mix_token else None
        self.aux_head: Any = self._new_head() if token_head else None
        if residual_scale != 1:
            for block in self.blocks:
                block.ls1, block.ls2 = Scaled(residual_scale), Scaled(residual_scale)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of the patch tokens, the size that token labels must have."""
        return tuple(self.patch_embed.grid_size)

    def init_weights(self, *args: Any, **options: Any) -> None:
        """timm's, but for the class token, which starts as the position embeddings do."""
        super().init_weights(*args, **options)
        if self.cls_token is not None:
            trunc_normal_(self.cls_token, std=_STD)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New heads for as many classes, none for 0."""
        super().reset_classifier(num_classes, global_pool)
        if self.aux_head is not None:
            self.aux_head = self._new_head()

    def forward_features(self, x: Tensor) -> Tensor:  # type: ignore[override]  # tokens have no mask here
        """(B, 1 + N, D): the class token, then the patch tokens, row-major. Nothing is mixed."""
        return self._features(self.patch_embed(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, 1 + N, D) to logits (B, C) as in evaluation, or what the image's head is given (B, D)."""
        answer = super().forward_head(x, pre_logits)
        if pre_logits or not self.token_answer or not self._answers_tokens:
            return answer
        return answer + self.token_answer * self._token_logits(x).amax(1)

    def forward(self, x: Tensor) -> Tensor | TokenAnswer:  # type: ignore[override]  # nor here
        """Images (B, in_chans, h, w) to logits (B, C), and in training to a `TokenAnswer`."""
        if not (self.training and self._answers_tokens):
            return self.forward_head(self.forward_features(x))
        # First of all, so that torch.compile makes one graph of the rest.
        box = _drawn(self.mix_token, self.patch_embed.dynamic_feat_size(x.shape[-2:]), x.device)
        tokens = self.patch_embed(x)
        features = self._features(tokens if box is None else box.paste(tokens))
        token_logits = self._token_logits(features)
        return TokenAnswer(
            super().forward_head(features), token_logits if box is None else box.paste(token_logits), box
        )

    @property
    def _answers_tokens(self) -> bool:
        return self.aux_head is not None and self.num_classes > 0 and self.global_pool != ""

    def _features(self, tokens: Tensor) -> Tensor:
        tokens = self.norm_pre(self.patch_drop(self._pos_embed(tokens)))
        if self.grad_checkpointing and self.training:
            tokens = checkpoint_sequential(self.blocks, len(self.blocks), tokens, use_reentrant=False)
        else:
            tokens = self.blocks(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def _token_logits(self, features: Tensor) -> Tensor:
        # `fc_norm` is the final norm where the image's head averages the tokens, and nothing where it does not.
        logits: Tensor = self.aux_head(self.fc_norm(features[:, self.num_prefix_tokens :]))
        return logits

    def _new_head(self) -> nn.Module:
        if self.num_classes == 0:
            return nn.Identity()
        weight: Any = self.pos_embed
        head = nn.Linear(self.embed_dim, self.num_classes, device=weight.device, dtype=weight.dtype)
        trunc_normal_(head.weight, std=_STD)
        nn.init.zeros_(head.bias)
        return head


# Outside of torch.compile's graph, which a box enters as a tensor: one graph serves for all boxes.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _drawn(mix_token: MixToken | None, grid_hw: tuple[int, int], device: torch.device) -> TokenBox | None:
    return None if mix_token is None else mix_token.draw(grid_hw, device)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: LVViT) -> dict[str, Tensor]:
    """Published weights as they fit a model: out of what they are wrapped in, position embeddings of its grid."""
    state_dict = state_dict.get("state_dict", state_dict)
    state_dict = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    own: Any = model.pos_embed
    given = state_dict.get("pos_embed")
    if given is not None and given.shape[1] != own.shape[1]:
        state_dict["pos_embed"] = resample_abs_pos_embed(given, list(model.grid_hw))
    return state_dict


def _cfg(crop: float, size: int = 224, **options: Any) -> dict[str, Any]:
    return {
        "input_size": (3, size, size),
        "num_classes": 1000,
        "crop_pct": crop,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "patch_embed.conv1",
        "classifier": ("head", "aux_head"),
        **options,
    }


# No weights come with them: give a file by `checkpoint_path`.
default_cfgs = generate_default_cfgs(
    {
        "lvvit_t": _cfg(0.9),
        "lvvit_s": _cfg(0.9),
        "lvvit_m": _cfg(1.0),
        "lvvit_l": _cfg(1.0, size=448),
        "lvvit_demo": _cfg(1.0, size=64),
    }
)


def _create(name: str, pretrained: bool, own: dict[str, Any], given: dict[str, Any]) -> LVViT:
    options = own | given
    return build_model_with_cfg(
        LVViT,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": options.pop("out_indices", 3), "feature_cls": "getter"},
        **options,
    )


@register_model
def lvvit_t(pretrained: bool = False, **options: Any) -> LVViT:
    """LV-ViT-T: 8.53 M parameters."""
    return _create("lvvit_t", pretrained, {"embed_dim": 240, "depth": 12, "num_heads": 4}, options)


@register_model
def lvvit_s(pretrained: bool = False, **options: Any) -> LVViT:
    """LV-ViT-S: 26.15 M parameters."""
    own = {"embed_dim": 384, "depth": 16, "num_heads": 6, "residual_scale": 2.0}
    return _create("lvvit_s", pretrained, own, options)


@register_model
def lvvit_m(pretrained: bool = False, **options: Any) -> LVViT:
    """LV-ViT-M: 55.83 M parameters."""
    own = {"embed_dim": 512, "depth": 20, "num_heads": 8, "residual_scale": 2.0}
    return _create("lvvit_m", pretrained, own, options)


@register_model
def lvvit_l(pretrained: bool = False, **options: Any) -> LVViT:
    """LV-ViT-L, for images of 448 pixels: 150.47 M parameters."""
    own = {"img_size": 448, "embed_dim": 768, "depth": 24, "num_heads": 12, "residual_scale": 3.0, "stem_width": 128}
    return _create("lvvit_l", pretrained, own, options)


@register_model
def lvvit_demo(pretrained: bool = False, **options: Any) -> LVViT:
    """A small one for images of 64 pixels and a CPU; `patch_size` 16 makes it four times cheaper."""
    own = {"img_size": 64, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4, "stem_width": 32}
    return _create("lvvit_demo", pretrained, own, options)
