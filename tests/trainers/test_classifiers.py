"""timm, the reference of torchvision, deit: the lines that their pages show, and what the pages say of flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import training
from pages import blocks, read_page
from timm.data import create_dataset, create_loader
from timm.loss import SoftTargetCrossEntropy
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

import relabel
from relabel.errors import LabelError

# timm's readers leave closing to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

# Without its mstd0.5: one image in a thousand would be posterized to 0 bits, which Pillow 13 refuses.
RAND_AUGMENT = "rand-m9-inc1"
TIMM: dict[str, Any] = {
    "model": "test_resnet", "dataset": "", "val_split": "", "img_size": 32, "kd_model": "", "channels_last": False,
    "mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "jsd_loss": False, "aug_splits": 0, "prefetcher": True,
    "naflex_loader": False, "scale": (0.2, 1.0), "ratio": (0.75, 1.33), "hflip": 0.5, "vflip": 0.0, "aa": None,
    "color_jitter": None, "train_img_sizes": None,
}  # fmt: skip
DEIT: dict[str, Any] = {
    "model": "test_resnet", "nb_classes": training.CLASSES, "input_size": 32, "num_workers": 0, "bce_loss": False,
    "color_jitter": 0.3, "aa": RAND_AUGMENT, "reprob": 0.25, "ThreeAugment": False, "smoothing": 0.1,
    "mixup": 0.8, "cutmix": 1.0, "cutmix_minmax": None, "mixup_prob": 1.0, "mixup_switch_prob": 0.5,
    "mixup_mode": "batch",
}  # fmt: skip
TORCHVISION: dict[str, Any] = {
    "train_crop_size": 32, "auto_augment": None, "weights": None, "cache_dataset": False, "cache_dir": ".",
    "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing": 0.0,
}  # fmt: skip
NO_COLOURS: dict[str, Any] = {"color_jitter": 0.0, "aa": None, "reprob": 0.0}


def timm(photographs: Path, *titles: str, **flags: Any) -> training.Seen:
    with training.watching((SoftTargetCrossEntropy, "forward")) as seen:
        training.run("timm", *titles, args=TIMM | {"data_dir": str(photographs)} | flags)
    return seen


def deit(photographs: Path, *titles: str, **flags: Any) -> training.Seen:
    with training.watching((SoftTargetCrossEntropy, "forward")) as seen:
        training.run("deit", *titles, args=DEIT | {"data_path": str(photographs)} | flags)
    return seen


def torchvision(photographs: Path, *titles: str, **flags: Any) -> training.Seen:
    with training.watching() as seen:
        training.run("torchvision", *titles, args=TORCHVISION | {"data_path": str(photographs)} | flags)
    return seen


@pytest.mark.parametrize(
    ("title", "flags"),
    [
        ("labels", {"workers": 1}),
        ("labels", {"prefetcher": False, "vflip": 0.5}),
        ("labels", {"kd_model": "test_resnet", "scale": (0.1, 0.4), "hflip": 1.0}),
        ("mixing", {"mixup": 0.8, "smoothing": 0.1}),
        ("mixing, no prefetcher", {"mixup": 0.8, "smoothing": 0.1, "prefetcher": False}),
    ],
)
def test_timm_trains_with_labels_of_what_its_images_show(
    photographs: Path, workplace: Path, title: str, flags: dict[str, Any]
) -> None:
    seen = timm(photographs, title, **flags)
    assert seen.targets.shape == (16, training.CLASSES)
    assert torch.allclose(seen.targets.sum(1), torch.ones(16), atol=1e-5)
    assert training.farthest(seen) < 0.05


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"mixup": 0.8}, RuntimeError, "out of bounds"),
        ({"smoothing": 0.1}, RuntimeError, "gather"),
        ({"aug_splits": 2}, AttributeError, "'AugMixDataset' object has no attribute 'maps'"),
        ({"train_img_sizes": [32, 48]}, AttributeError, "'ScheduledTransformDataset' object has no attribute 'maps'"),
    ],
)
def test_what_timm_does_to_tickets_or_behind_them_ends_loudly(
    photographs: Path, workplace: Path, flags: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        timm(photographs, "labels", **flags)


def test_the_task_of_timms_page_pools_tickets(photographs: Path, workplace: Path) -> None:
    page = "docs/trainers/timm.md"
    (block,) = (block for block in blocks(page, read_page(page)) if block.language == "python")
    exec(block.text, names := {})
    images, maps = ImageFolder(photographs, ToTensor()), relabel.open("labels.zarr")
    image, ticket = relabel.Labeled(images, maps)[5]
    task = names["SoftLabelTask"](training.student(training.CLASSES), torch.nn.CrossEntropyLoss(), verbose=False)
    task.maps = maps
    given, tickets = image[None], torch.from_numpy(ticket)[None]
    expected = relabel.soft_cross_entropy(task.get_trainable_module()(given), maps.pool(tickets))
    torch.testing.assert_close(task(given, tickets)["loss"], expected)


@pytest.mark.parametrize(
    ("title", "flags"),
    [
        ("labels", {}),
        ("labels", {"weights": "ResNet18_Weights.DEFAULT"}),
        ("labels", {"cache_dataset": True, "epochs": 2}),
        ("mixing", {"mixup_alpha": 0.8, "workers": 1}),
    ],
)
def test_the_reference_trains_with_labels_of_what_its_images_show(
    photographs: Path, workplace: Path, title: str, flags: dict[str, Any]
) -> None:
    for _ in range(1 + ("cache_dataset" in flags)):
        seen = torchvision(photographs, title, **flags)
    assert torch.allclose(seen.targets.sum(1), torch.ones(16 * flags.get("epochs", 1)), atol=1e-5)
    assert training.farthest(seen) < 0.05


@pytest.mark.parametrize(
    ("trainer", "recipe"),
    [
        ("timm", TIMM | {"img_size": 64, "aa": RAND_AUGMENT, "color_jitter": 0.4}),
        ("torchvision", TORCHVISION | {"train_crop_size": 64, "auto_augment": "ra"}),
        ("torchvision", TORCHVISION | {"train_crop_size": 64, "auto_augment": "ta_wide"}),
        ("torchvision", TORCHVISION | {"train_crop_size": 64, "auto_augment": "imagenet"}),
        ("deit", DEIT | {"input_size": 64}),
        ("deit", DEIT | {"input_size": 64, "ThreeAugment": True}),
    ],
)
def test_default_recipes_show_what_their_labels_are_of(
    photographs: Path, workplace: Path, trainer: str, recipe: dict[str, Any]
) -> None:
    data = {"data_dir": str(photographs), "data_path": str(photographs)}
    report = relabel.check_views(training.run(trainer, "labels", args=recipe | data))
    assert report.inexact == 0
    assert report.compared > 10


def test_what_crops_behind_the_label_is_seen_from_the_loader(photographs: Path, workplace: Path) -> None:
    data = relabel.Labeled(create_dataset("", root=str(photographs)), relabel.open("labels.zarr"))
    sizes = {"input_size": 32, "input_size_choices": [32, 48], "batch_size": 8, "is_training": True}
    loader = create_loader(data, **sizes, num_workers=0, device=torch.device("cpu"))
    with pytest.raises(LabelError, match="ScheduledTransformDataset > Labeled"):
        relabel.check_views(loader)


def test_mixers_of_torchvision_that_meet_tickets_end_loudly(photographs: Path, workplace: Path) -> None:
    with pytest.raises(ValueError, match="must match num_classes: 11 != 48"):
        torchvision(photographs, "labels", mixup_alpha=0.8)


def test_deit_trains_with_labels_of_what_its_images_show(photographs: Path, workplace: Path) -> None:
    assert training.farthest(deit(photographs, "labels", **NO_COLOURS | {"cutmix": 0.0})) < 0.05


def test_deit_trains_by_its_default_recipe(photographs: Path, workplace: Path) -> None:
    targets = deit(photographs, "labels").targets
    assert torch.allclose(targets.sum(1), torch.ones(16), atol=1e-5)
    assert (targets > 0).all()


def test_deits_binary_loss_takes_every_class_for_a_target_until_it_is_mended(
    photographs: Path, workplace: Path
) -> None:
    assert (deit(photographs, "labels", bce_loss=True).targets == 1).all()
    mended = deit(photographs, "labels", "bce", **NO_COLOURS | {"cutmix": 0.0})
    assert training.farthest(mended) < 0.05
