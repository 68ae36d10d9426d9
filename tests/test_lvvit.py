"""LV-ViT: its sizes, where its tokens look, MixToken and its un-mixing, and what users of timm expect of a model."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from pipelines import lvvit
from relabel.errors import InvalidValueError
from relabel.mixing import MixToken, TokenBox
from relabel.teacher import TeacherSpec, load_teacher

_GOLDEN = Path(__file__).parent / "data" / "lvvit.npz"
# In millions, as the authors count them, all classes and both heads included.
_MILLIONS = {"lvvit_t": 8.53, "lvvit_s": 26.15, "lvvit_m": 55.83, "lvvit_l": 150.47}
_TINY = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "stem_width": 8, "num_classes": 5}


def made(**options: Any) -> Any:
    """A tiny LV-ViT of 4 x 4 tokens, from seed 0."""
    torch.manual_seed(0)
    return timm.create_model("lvvit_demo", **{**_TINY, **options})


def images(count: int = 4, size_hw: tuple[int, int] = (32, 32), channels: int = 3) -> Tensor:
    return torch.randn(count, channels, *size_hw, generator=torch.Generator().manual_seed(1))


def without_blocks(model: Any) -> Any:
    """The same with every residual branch 0, so that a token knows its own patch only."""
    for block in model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


@pytest.mark.parametrize("name", _MILLIONS)
def test_a_size_has_the_papers_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(_MILLIONS[name], rel=0.001)
    assert model.pretrained_cfg["input_size"] == (3, *model.patch_embed.img_size)
    assert model.patch_embed.img_size == ((448, 448) if name == "lvvit_l" else (224, 224))


@pytest.mark.parametrize(
    ("name", "depth", "scale"), [("lvvit_t", 12, 1), ("lvvit_s", 16, 2), ("lvvit_m", 4, 2), ("lvvit_l", 2, 3)]
)
def test_every_size_learns(name: str, depth: int, scale: int) -> None:
    # The two largest without most of their equal blocks: the others are for a machine with more time.
    model = timm.create_model(name, img_size=32, depth=depth, num_classes=10, drop_path_rate=0.1).train()
    image_logits, token_logits, _ = model(images(2))
    assert (image_logits.shape, token_logits.shape) == ((2, 10), (2, 4, 10))
    (image_logits.square().mean() + token_logits.square().mean()).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
    assert [getattr(block.ls1, "divisor", 1) for block in model.blocks] == [scale] * depth
    assert [getattr(block.ls2, "divisor", 1) for block in model.blocks] == [scale] * depth


def test_it_answers_as_the_published_model_does() -> None:
    # Its outputs for weights and images that are waves, in evaluation, and in training with a box that it drew.
    golden = np.load(_GOLDEN)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "stem_width": 64, "patch_size": 16, "residual_scale": 2.0}
    model = timm.create_model("lvvit_demo", img_size=(64, 96), num_classes=5, **options).eval()

    def wave(start: float, shape: torch.Size) -> Tensor:
        return torch.from_numpy(np.sin(start + 0.91 * np.arange(shape.numel()))).float().reshape(shape)

    with torch.no_grad():
        for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
            values = wave(1.7 * number, parameter.shape)
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.1 * values if is_norm else 0.2 * values)
        given = torch.stack([wave(n, torch.Size((3, 64, 96))) * (1 + n) for n in range(3)])
        evaluated = model(given)
        top, left, bottom, right = golden["box"].tolist()
        box = TokenBox.at((top, bottom), (left, right), (4, 6))
        model.mix_token = SimpleNamespace(draw=lambda grid_hw, device: box)
        answer = model.train()(given)
    assert 0 < answer.share < 1
    for name, value in (("evaluated", evaluated), ("image_logits", answer[0]), ("token_logits", answer[1])):
        torch.testing.assert_close(value, torch.from_numpy(golden[name]), rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("corner", "token"), [((0, 0), 0), ((0, 1), 7), ((1, 0), 24), ((1, 1), 31)], ids=["tl", "tr", "bl", "br"]
)
def test_a_change_in_a_corner_moves_that_corners_token_most(corner: tuple[int, int], token: int) -> None:
    model = made(img_size=(32, 64), mix_token=False)
    # Batch norms that learned nothing take their own statistics, so that a change elsewhere is one of all tokens.
    model.train().patch_embed.eval()
    before = images(2, (32, 64))
    after = before.clone()
    row, column = corner[0] * 24, corner[1] * 56
    after[:, :, row : row + 8, column : column + 8] += 3
    with torch.no_grad():
        moved = (model(after).token_logits - model(before).token_logits).abs().sum(2)
    assert moved.shape == (2, 32)
    assert moved.argmax(1).tolist() == [token, token]


def test_unmixed_token_logits_are_those_of_an_images_own_patches() -> None:
    # Without blocks a token knows its own patch only: what the mix of the whole stem comes back to is exact.
    model = without_blocks(made(mix_seed=0)).train()
    plain = copy.deepcopy(model)
    plain.mix_token = None
    mixed, own = model(images()), plain(images())
    assert mixed.box is not None
    assert 0 < mixed.box.mask.sum() < 16
    torch.testing.assert_close(mixed.token_logits, own.token_logits)
    assert own.box is None
    assert own.share == 1


def test_the_transformer_sees_the_partners_tokens_in_the_box() -> None:
    model = made(mix_seed=0).train()
    seen: list[Tensor] = []
    model.pos_drop.register_forward_hook(
        lambda module, given, tokens: seen.append(tokens[:, 1:] - model.pos_embed[:, 1:])
    )
    answer = model(images())
    model.mix_token = None
    model(images())
    inside = answer.box.mask.flatten()
    torch.testing.assert_close(seen[0][:, ~inside], seen[1][:, ~inside])
    torch.testing.assert_close(seen[0][:, inside], seen[1].flip(0)[:, inside])
    assert answer.share == answer.box.share == pytest.approx(1 - inside.sum().item() / 16)


def test_mixing_is_seeded_and_happens_in_training_only() -> None:
    one, other = (made(mix_seed=3).train() for _ in range(2))
    masks = [one(images()).box.mask for _ in range(8)]
    assert all(torch.equal(mask, other(images()).box.mask) for mask in masks)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 1
    one.eval()
    other.eval()
    other.mix_token = None
    torch.testing.assert_close(one(images()), other(images()))


def test_mixing_can_be_switched_off_and_on_again() -> None:
    model = made(mix_token=False).train()
    assert model(images()).box is None
    model.mix_token = MixToken(seed=0)
    assert model(images()).box.mask.shape == model.grid_hw == (4, 4)


def test_in_evaluation_the_largest_token_logits_count_half() -> None:
    model, image_only = made(), made(token_answer=0.0)
    model.eval()
    image_only.eval()
    features = model.forward_features(images())
    assert features.shape == (4, 17, 32)
    image_logits, token_logits = model.head(features[:, 0]), model.aux_head(features[:, 1:])
    torch.testing.assert_close(model(images()), image_logits + 0.5 * token_logits.max(1).values)
    torch.testing.assert_close(image_only(images()), image_logits)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features[:, 0])


def test_each_residual_branch_is_divided_by_the_scale() -> None:
    block, scaled = made().blocks[0], made(residual_scale=4.0).blocks[0]
    scaled.load_state_dict(block.state_dict())
    tokens = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(2))
    for other, kept in ((block.mlp.fc2, "attn"), (block.attn.proj, "mlp")):
        saved = copy.deepcopy(block.state_dict())
        nn.init.zeros_(other.weight)
        nn.init.zeros_(other.bias)
        scaled.load_state_dict(block.state_dict())
        torch.testing.assert_close(scaled(tokens) - tokens, (block(tokens) - tokens) / 4, msg=kept)
        block.load_state_dict(saved)


def test_stochastic_depth_grows_with_depth() -> None:
    blocks = made(depth=5, drop_path_rate=0.2).blocks
    assert [getattr(block.drop_path1, "drop_prob", 0) for block in blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("options", [{}, {"token_head": False}, {"token_head": False, "global_pool": "avg"}])
def test_every_parameter_learns_from_what_training_returns(options: dict[str, Any]) -> None:
    model = made(**options).train()
    answer = model(images())
    loss = answer.square().sum() if isinstance(answer, Tensor) else answer[0].square().sum() + answer[1].square().sum()
    loss.backward()
    # A class token that only an average leaves out is timm's own: it takes part in the attention.
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_weights_come_back_from_a_file_and_at_another_size(tmp_path: Path) -> None:
    model = made().eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "student.pth")
    again = made(num_classes=5, checkpoint_path=str(tmp_path / "student.pth")).eval()
    torch.testing.assert_close(again(images()), model(images()), rtol=0, atol=0)

    wide = made(img_size=(32, 64)).eval()
    loaded = torch.load(tmp_path / "student.pth", weights_only=True)
    wide.load_state_dict(lvvit.checkpoint_filter_fn(loaded, wide))
    resized = copy.deepcopy(model)
    resized.set_input_size((32, 64))
    assert resized.grid_hw == wide.grid_hw == (4, 8)
    torch.testing.assert_close(wide(images(2, (32, 64))), resized(images(2, (32, 64))))


def test_parameters_have_the_published_names() -> None:
    names = {name.replace("blocks.0.", "").replace("blocks.1.", "") for name, _ in made().named_parameters()}
    stem = {f"{kind}{n}.weight" for kind in ("conv", "bn") for n in (1, 2, 3)} | {f"bn{n}.bias" for n in (1, 2, 3)}
    linear = {f"{layer}.{part}" for layer in ("head", "aux_head", "norm") for part in ("weight", "bias")}
    block = {
        f"{layer}.{part}"
        for layer in ("norm1", "norm2", "mlp.fc1", "mlp.fc2", "attn.proj")
        for part in ("weight", "bias")
    }
    patches = {f"patch_embed.{name}" for name in (*stem, "proj.weight", "proj.bias")}
    assert names == {"cls_token", "pos_embed", "attn.qkv.weight", *patches, *linear, *block}


def test_it_is_a_model_of_timms() -> None:
    model = made(in_chans=1, num_classes=7).eval()
    assert model(images(channels=1)).shape == (4, 7)
    assert {"pos_embed", "cls_token"} <= model.no_weight_decay()
    model.reset_classifier(3)
    assert model(images(channels=1)).shape == (4, 3)
    assert model.train()(images(channels=1)).token_logits.shape == (4, 16, 3)
    model.reset_classifier(0)
    assert model(images(channels=1)).shape == model.eval()(images(channels=1)).shape == (4, 32)
    model.reset_classifier(6, "avg")
    assert model(images(channels=1)).shape == (4, 6)
    assert made(num_classes=0, global_pool="")(images()).shape == (4, 17, 32)
    assert made(token_head=False).train()(images()).shape == (4, 5)
    assert [maps.shape for maps in made(features_only=True, out_indices=(1,))(images())] == [(4, 32, 4, 4)]
    config = timm.data.resolve_model_data_config(timm.create_model("lvvit_demo", num_classes=2))
    assert (config["input_size"], config["interpolation"]) == ((3, 64, 64), "bicubic")
    layers = (model.pretrained_cfg["first_conv"], *model.pretrained_cfg["classifier"])
    assert [type(model.get_submodule(layer)) for layer in layers] == [nn.Conv2d, nn.Linear, nn.Linear]


def test_the_patches_of_the_demos_size_may_be_larger() -> None:
    assert timm.create_model("lvvit_demo").grid_hw == (8, 8)
    coarse = timm.create_model("lvvit_demo", patch_size=16, num_classes=3).train()
    assert coarse(images(2, (64, 64))).token_logits.shape == (2, 16, 3)
    free = made(dynamic_img_size=True).train()
    answer = free(images(2, (48, 24)))
    assert answer.token_logits.shape == (2, 18, 5)
    assert answer.box.mask.shape == (6, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 7, "img_size": 28}, "must be even"),
        ({"img_size": 36}, r"do not tile images of \(36, 36\)"),
        ({"patch_drop_rate": 0.1}, "patch_drop_rate"),
        ({"residual_scale": 0.0}, "residual_scale must be above 0"),
        ({"mix_alpha": 0.0}, "alpha"),
        ({"dynamic_img_pad": True}, "dynamic_img_pad"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        made(**options)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"images must be \(32, 32\).*got \(32, 40\)"):
        made()(images(2, (32, 40)))
    with pytest.raises(InvalidValueError, match="do not tile"):
        made().set_input_size((32, 36))
    with pytest.raises(InvalidValueError, match="keep their size"):
        made().set_input_size(patch_size=4)


def test_it_runs_in_half_precision_and_with_recomputed_blocks() -> None:
    model = made(mix_seed=0).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {logits.dtype for logits in model(images())[:2]} == {torch.bfloat16}
    grads = []
    for recomputes in (False, True):
        model = made(mix_seed=0).train()
        model.set_grad_checkpointing(recomputes)
        model(images()).token_logits.square().mean().backward()
        grads.append(model.patch_embed.conv1.weight.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_it_compiles_once_for_all_boxes() -> None:
    model = made(mix_seed=0, depth=1).train()
    plain = copy.deepcopy(model)
    graphs = []

    def count(graph: torch.fx.GraphModule, given: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count)
    for _ in range(4):
        mixed, expected = compiled(images()), plain(images())
        assert torch.equal(mixed.box.mask, expected.box.mask)
        torch.testing.assert_close(mixed.token_logits, expected.token_logits)
    # Torch 2.10 makes the graph anew at the second box, and then no more; one for each box would be four.
    assert len(graphs) <= (1 if torch.__version__ >= "2.11" else 2)


def test_it_can_be_a_teacher_itself() -> None:
    teacher = load_teacher(TeacherSpec(name="lvvit_demo", random_weights=0, image_size_hw=(64, 96), device="cpu"))
    assert teacher.grid.size_hw == (8, 12)
    assert (teacher.record.head, teacher.proof.localises) == ("constant-field", True)
