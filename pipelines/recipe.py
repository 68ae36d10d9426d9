"""What a training run is, in one frozen value: the model, the schedule, the targets, the augmentation and the seed.

`train_student.py` runs one, `imagenet1k.py` names those of the papers, and `dataclasses.replace` changes one. Nothing
of a run stands anywhere else, but for where its images and labels lie and on how many devices it runs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from relabel.errors import InvalidValueError

Optimizer = Literal["sgd", "adamw", "adamp"]
Target = Literal["one-hot", "smoothed", "relabel", "token", "teacher"]
Space = Literal["logit", "probability"]
Mixing = Literal["none", "cutmix", "mixup", "mixtoken"]
GroundTruth = Literal["agreement", "published"]
Published = Literal["as-shipped", "corrected"]
Precision = Literal["float32", "bfloat16", "float16"]
Interpolation = Literal["bilinear", "bicubic", "random"]

_CHOICES: dict[str, Any] = {
    "optimizer": Optimizer,
    "target": Target,
    "space": Space,
    "mixing": Mixing,
    "precision": Precision,
    "interpolation": Interpolation,
}
_COUNTS = {"image_size": 1, "head_epochs": 0, "epochs": 1, "batch_size": 1, "warmup_epochs": 0, "cooldown_epochs": 0,
           "mixing_off_epochs": 0, "workers": 0, "seed": 0}  # fmt: skip
_NOT_NEGATIVE = ("min_learning_rate", "warmup_learning_rate", "weight_decay", "color_jitter", "lighting",
                 "token_weight")  # fmt: skip
_ABOVE_ZERO = ("learning_rate", "head_learning_rate", "temperature", "mixing_alpha")
_PROBABILITIES = ("mixing_probability", "flip_probability", "random_erasing")
_BELOW_ONE = ("momentum", "smoothing", "drop_path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One training run.

    Learning rates are those of `batch_size`, the images of one step over all devices; see `for_batch_size`. The rate
    rises in equal steps from `warmup_learning_rate` over the first `warmup_epochs` of the `epochs`, falls along a
    cosine to `min_learning_rate`, and stays there for `cooldown_epochs` more. Before all of that the classifier alone
    learns for `head_epochs`, at `head_learning_rate`.

    Attributes:
        name: of the run, in its log and its curves.
        model: a name of timm's, or of lvvit.py's.
        model_options: what the model is built with besides its classes and `drop_path`.
        init: where the first weights come from: "none" (random), "pretrained" (timm's), or a file, as starting.py says.
        image_size: height and width of a crop in pixels.
        head_epochs: in which only the classifier learns; for a new one on weights that are not.
        epochs: with the warm-up and without the cooldown.
        optimizer: "sgd" is with Nesterov's momentum; "adamw"; "adamp" is timm's.
        momentum: of "sgd".
        target: what the loss compares with: "one-hot" and "smoothed" are of the image's one label and need no store;
            "relabel" is the crop's soft label; "token" is that and one for each patch, for a model that answers tokens;
            "teacher" is what a teacher says of the crop's pixels, run on every crop: no store, and no label is nearer.
        teacher, teacher_checkpoint, teacher_size: for "teacher", as `relabel generate` takes --teacher, --checkpoint
            and --image-size, in pixels of a side; None is the model's own.
        smoothing: for "smoothed", above 0. For "relabel" and "token" the part of a soft label that is spread evenly
            over the classes, in [0, 1).
        space, temperature: how crops are pooled, as `relabel.ScoreMap.pool` says.
        published: of an imported archive, the targets of the papers' codes: "as-shipped", with all that is wrong with
            them, or "corrected": the true box, in the part that the map covers, sums of 1. None pools as of any store.
        mixing: "mixtoken" happens inside of the model, and is for "token" alone.
        mixing_alpha: of the Beta distribution of the shares.
        mixing_probability: of a batch to be mixed, for "cutmix" and "mixup".
        mixing_off_epochs: the last epochs, cooldown and all, that do not mix.
        token_weight: of the token loss, where the image loss has 1.
        ground_truth: whether the image's one label corrects its soft label, as `relabel.losses` says, for target
            "token"; None is no.
        ema_decay: of the averaged weights, a step; None for none. Where there are, they are evaluated too.
        precision: of the forward pass; weights are float32.
        mean, std: of pixels in [0, 1], three numbers each; None is those of the first weights, else ImageNet's.
        crop_scale, crop_ratio: area and aspect ratio of random crops, as torchvision's RandomResizedCrop takes them.
        interpolation: of the crops' resize; "random" draws one of the two.
        validation_crop: side of the centred validation crop over the shorter side of the image.
        color_jitter: of brightness, contrast and saturation; without effect where there is `randaugment`.
        lighting: standard deviation of the noise along the principal components of ImageNet's colours, in [0, 1] units.
        randaugment: timm's description, as "rand-m9-mstd0.5-inc1", or None.
        random_erasing: probability that a rectangle of a crop is replaced by noise.
        drop_path: stochastic depth's largest rate.
        clip_norm: the largest norm of a step's gradients, or None.
        workers: loader processes of each device.
        seed: of everything random.

    Raises:
        InvalidValueError: a value out of range, or two that exclude each other.
    """

    name: str
    model: str
    model_options: Mapping[str, Any] = field(default_factory=dict)
    init: str = "none"
    image_size: int = 224
    head_epochs: int = 0
    epochs: int = 300
    warmup_epochs: int = 5
    cooldown_epochs: int = 0
    batch_size: int = 1024
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1
    head_learning_rate: float = 1e-3
    min_learning_rate: float = 0.0
    warmup_learning_rate: float = 0.0
    weight_decay: float = 1e-4
    momentum: float = 0.9
    target: Target = "one-hot"
    teacher: str | None = None
    teacher_checkpoint: str | None = None
    teacher_size: int | None = None
    smoothing: float = 0.0
    space: Space = "logit"
    temperature: float = 1.0
    published: Published | None = None
    mixing: Mixing = "none"
    mixing_alpha: float = 1.0
    mixing_probability: float = 1.0
    mixing_off_epochs: int = 0
    token_weight: float = 0.5
    ground_truth: GroundTruth | None = None
    ema_decay: float | None = None
    precision: Precision = "bfloat16"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"
    validation_crop: float = 0.875
    flip_probability: float = 0.5
    color_jitter: float = 0.0
    lighting: float = 0.0
    randaugment: str | None = None
    random_erasing: float = 0.0
    drop_path: float = 0.0
    clip_norm: float | None = None
    workers: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        # JSON has no tuples.
        options = {key: tuple(each) if isinstance(each, list) else each for key, each in self.model_options.items()}
        object.__setattr__(self, "model_options", options)
        self._check_values()
        self._check_pairs()
        self._check_target()

    @property
    def total_epochs(self) -> int:
        """`head_epochs`, `epochs` and `cooldown_epochs`."""
        return self.head_epochs + self.epochs + self.cooldown_epochs

    @property
    def uses_store(self) -> bool:
        """Whether the target is looked up in a store of score maps."""
        return self.target in ("relabel", "token")

    def for_batch_size(self, batch_size: int) -> Recipe:
        """The recipe for steps of another size: its learning rates move in proportion."""
        if batch_size < 1:
            raise InvalidValueError(f"batch_size must be 1 image or more; got {batch_size}")
        factor = batch_size / self.batch_size
        rates = ("learning_rate", "head_learning_rate", "min_learning_rate", "warmup_learning_rate")
        return dataclasses.replace(
            self, batch_size=batch_size, **{name: getattr(self, name) * factor for name in rates}
        )

    def as_dict(self) -> dict[str, Any]:
        """Every field by name, of plain values that JSON takes; `Recipe(**values)` makes it again."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return values | {"model_options": dict(self.model_options)}

    def _check_values(self) -> None:
        for name in ("name", "model", "init"):
            self._check(name, bool(getattr(self, name)), "a name")
        for name, choices in _CHOICES.items():
            self._check(name, getattr(self, name) in get_args(choices), f"one of {', '.join(get_args(choices))}")
        truths = (None, *get_args(GroundTruth))
        self._check("ground_truth", self.ground_truth in truths, f"one of {', '.join(map(str, truths))}")
        kinds = (None, *get_args(Published))
        self._check("published", self.published in kinds, f"one of {', '.join(map(str, kinds))}")
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            self._check(name, isinstance(value, int) and value >= least, f"a whole number, {least} or more")
        for name in _NOT_NEGATIVE:
            self._check(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in _ABOVE_ZERO:
            self._check(name, 0 < getattr(self, name) < math.inf, "above 0")
        for name in _PROBABILITIES:
            self._check(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in _BELOW_ONE:
            self._check(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self._check("validation_crop", 0 < self.validation_crop <= 1, "in (0, 1]")
        self._check("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "in (0, 1), or None")
        self._check("clip_norm", self.clip_norm is None or 0 < self.clip_norm < math.inf, "above 0, or None")

    def _check_pairs(self) -> None:
        for name, most in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
            pair = tuple(getattr(self, name))
            object.__setattr__(self, name, pair)
            is_range = len(pair) == 2 and 0 < pair[0] <= pair[1] <= most and math.isfinite(pair[1])
            self._check(name, is_range, f"(least, most), above 0{' and at most 1' if most == 1 else ''}")
        for name, lowest in (("mean", -math.inf), ("std", 0.0)):
            if (colours := getattr(self, name)) is not None:
                object.__setattr__(self, name, colours := tuple(colours))
                is_good = len(colours) == 3 and all(lowest < each < math.inf for each in colours)
                self._check(name, is_good, f"three numbers{', above 0' if name == 'std' else ''}, or None")
        self._check("warmup_epochs", self.warmup_epochs < self.epochs, f"fewer than the {self.epochs} epochs")
        least = "at most learning_rate"
        self._check("min_learning_rate", self.min_learning_rate <= self.learning_rate, least)
        self._check("warmup_learning_rate", self.warmup_learning_rate <= self.learning_rate, least)

    def _check_target(self) -> None:
        if self.target == "one-hot":
            self._check("smoothing", self.smoothing == 0, "0 for target one-hot, or target smoothed")
        if self.target == "smoothed":
            self._check("smoothing", self.smoothing > 0, "above 0 for target smoothed")
        if self.published is not None:
            self._check("published", self.uses_store, f"None for target {self.target}")
            is_plain = (self.space, self.temperature) == ("logit", 1.0)
            self._check("published", is_plain, f"None for space {self.space} and temperature {self.temperature}")
        if self.target == "teacher":
            is_said = bool(self.teacher or self.teacher_checkpoint)
            self._check("teacher", is_said, "a name for target teacher, or teacher_checkpoint a file that says it")
            self._check("smoothing", self.smoothing == 0, "0 for target teacher")
        else:
            for name in ("teacher", "teacher_checkpoint", "teacher_size"):
                self._check(name, getattr(self, name) is None, f"None for target {self.target}")
        size = self.teacher_size
        self._check("teacher_size", size is None or size > 0, "a whole number, 1 or more, or None")
        if self.target != "token":
            self._check("ground_truth", self.ground_truth is None, f"None for target {self.target}")
            self._check("mixing", self.mixing != "mixtoken", f"none, cutmix or mixup for target {self.target}")

    def _check(self, name: str, is_good: bool, expected: str) -> None:
        if not is_good:
            raise InvalidValueError(f"recipe {self.name!r}: {name} must be {expected}; got {getattr(self, name)!r}")
