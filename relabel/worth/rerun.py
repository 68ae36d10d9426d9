"""The teachers of a store, run once more: on whole images for their maps, on crops for their own answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from relabel.errors import TeacherError
from relabel.geometry import WHOLE
from relabel.images.decode import fitted
from relabel.images.device import decode_and_fit_on
from relabel.manifest import Manifest, Preprocessing
from relabel.score_map import ScoreMap
from relabel.teacher import Ensemble, averaged, load_ensemble
from relabel.teacher.heads.dense import DenseClassifier
from relabel.worth.options import RerunOptions
from relabel.worth.rebuilding import recorded_members, rerun_spec

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN = 12
_MOST_BYTES = 128 * 2**20
"""Of one copy of a batch's dense logits; a handful are alive at a time."""


class Rerun:
    """The teachers, loaded and proved.

    Attributes:
        ensemble: makes the maps, on the store's grid.
        is_own_answer: whether crops are answered by the models' own heads; else by the mean over a crop's map.
        is_exact: whether maps then and now are of float32, and of pixels that one kind of decoder made.

    Raises:
        TeacherError: they cannot be built, loaded or proved, or have other classes than the store.
    """

    def __init__(self, manifest: Manifest, options: RerunOptions) -> None:
        spec = rerun_spec(manifest, options)
        self._manifest = manifest
        self.ensemble = load_ensemble(spec)
        if self.ensemble.num_classes != manifest.scores.num_classes:
            raise TeacherError(
                f"the store holds maps of {manifest.scores.num_classes} classes, and {self._names()} answers "
                f"{self.ensemble.num_classes}: it cannot have made them. Give the right --teacher, --checkpoint or "
                "--classes"
            )
        on_crops = self.ensemble
        teachers = tuple(replace(t, image_size_hw=options.crop_size_hw or t.image_size_hw) for t in spec.teachers)
        if teachers != spec.teachers:
            # Loaded anew, since many a network is set up for one size of input.
            on_crops = load_ensemble(replace(spec, teachers=teachers))
        self._dense_on_crops = on_crops
        self.is_own_answer = all(isinstance(member.forward, DenseClassifier) for member in on_crops.members)
        self._on_crops = [member.of_whole_images() for member in on_crops.members]
        was = [(m.teacher.precision, m.preprocessing.decode) for m in recorded_members(manifest)]
        now = [(m.record.precision, m.preprocessing.decode) for m in self.ensemble.members]
        self.is_exact = was == now and all(precision == "float32" for precision, _ in now)

    @property
    def crop_size_hw(self) -> tuple[int, int]:
        """(height, width) in pixels of a crop as the first teacher sees it."""
        return self._on_crops[0].preprocessing.image_size_hw

    def fitted(self, pixels: Tensor, data: bytes) -> tuple[list[Tensor], Tensor]:
        """A decoded image as each of the ensemble's views has it, uint8 (3, h, w), and the map's footprint (4,).

        Args:
            pixels: uint8 (3, H, W), in the frame of the views.
            data: the same encoded, for views that a GPU decodes.
        """
        return seen_by(self.ensemble, pixels, data)

    def maps(self, views: Sequence[Tensor]) -> Tensor:
        """Dense logits (B, C, H, W) float32 on the CPU, of images uint8 (B, 3, h, w), once for each view."""
        return self.ensemble(views).cpu()

    def answers(self, crops: Sequence[Tensor]) -> Tensor:
        """Probabilities (n, C) float32 on the CPU for n crops, uint8 (3, h, w) of any size, resized without padding.

        Of several forward passes their average, of what the store's maps are the average of.
        """
        seen: dict[Preprocessing, Tensor] = {}
        answers: list[Tensor] = []
        with torch.inference_mode():
            for member in self._on_crops:
                view = replace(member.preprocessing, fit="squash", crop=1.0)
                if view not in seen:
                    seen[view] = torch.stack([fitted(crop, view)[0] for crop in crops])
                answers.append(member(seen[view])[..., 0, 0])
                if self.ensemble.flip_average:
                    answers.append(member(seen[view].flip(3))[..., 0, 0])
            return averaged(answers, self.ensemble.mean).softmax(1).cpu()

    def token_answers(self, crop: Tensor, places: Tensor, side: int) -> Tensor:
        """Of some tokens of a crop, probabilities (C, k) float32 on the CPU: of its own map, pooled to side x side.

        Args:
            crop: uint8 (3, h, w) of any size.
            places: (k,) int64, numbers of tokens, row by row.
            side: tokens of a side.
        """
        views = [replace(view, fit="squash", crop=1.0) for view in self._dense_on_crops.views]
        logits = self._dense_on_crops([fitted(crop, view)[0][None] for view in views]).cpu()
        ids = torch.arange(logits.shape[1])[None]
        maps = ScoreMap(ids, logits.log_softmax(1), logits[:, 0], num_classes=logits.shape[1])
        return maps.pool(torch.tensor([WHOLE.xyxy]), side)[0].flatten(1)[:, places]

    def findings(self) -> Iterator[str]:
        """Teachers other than those of which the manifest tells."""
        recorded = recorded_members(self._manifest)
        if len(recorded) != len(self.ensemble.members):
            yield (
                f"the store's maps are said to be the mean of {len(recorded)} forward passes, and "
                f"{len(self.ensemble.members)} were run; the scores are compared all the same"
            )
        for was, now in zip(recorded, self.ensemble.members, strict=False):
            known, found = was.teacher.weights_digest, now.record.weights_digest
            if known != found and _DIGEST.fullmatch(known) and known.strip("0"):
                yield (
                    f"the weights of {now.record.name} that were run (sha256 {found[:_SHOWN]}) are not those that the "
                    f"manifest tells of {was.teacher.name} (sha256 {known[:_SHOWN]}): another checkpoint, or another "
                    "teacher; the scores are compared all the same"
                )

    def description(self) -> str:
        """Which teachers ran, and how."""
        first = self.ensemble.members[0]
        height, width = first.preprocessing.image_size_hw
        return f"{self._names()} at {height} x {width} pixels, {first.record.precision} on {first.device}"

    def _names(self) -> str:
        each = dict.fromkeys(member.record.described for member in self.ensemble.members)
        return " + ".join(each) + (", mirrored too" if self.ensemble.flip_average else "")


def seen_by(ensemble: Ensemble, pixels: Tensor, data: bytes) -> tuple[list[Tensor], Tensor]:
    """`Rerun.fitted`, for any ensemble."""
    views = ensemble.views
    on_device = decode_and_fit_on(ensemble.device, [data], views)[0] if views[0].decode == "cuda" else None
    found = [(v.pixels, v.footprint) for v in on_device or ()] or [fitted(pixels, view) for view in views]
    return [image for image, _ in found], torch.tensor(found[0][1].xyxy)


def at_once(num_classes: int, grid_hw: tuple[int, int], most: int) -> int:
    """How many images' dense logits to hold at a time, `most` or fewer."""
    return max(1, min(most, _MOST_BYTES // (4 * num_classes * grid_hw[0] * grid_hw[1])))
