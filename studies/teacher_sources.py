"""Which classifiers of torchvision and transformers can be teachers: each is proved with random weights, as Markdown.

Small inputs, and small configurations of transformers' architectures: a head does not know how wide or deep its body
is. Takes minutes; ``--only NAME`` measures those whose name holds it.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from relabel.errors import TeacherError
from relabel.teacher import TeacherSpec, load_teacher

_IMAGE = 96
_TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_VIT = {**_TOWER, "image_size": 64, "patch_size": 16}
_STAGES = {"depths": [1, 1], "num_heads": [2, 2], "embed_dim": 16, "image_size": 128, "window_size": 4}
_CONV = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
_CONVNEXT = {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1]}
_VISION = {"vision_config": _VIT}
_MOBILE = {"depth_multiplier": 0.25}

_SMALL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            *("beit", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers", "ijepa", "vit"),
            "vit_msn",
        ),
        _VIT,
    ),
    **dict.fromkeys(("clip", "metaclip_2", "siglip"), _VISION),
    "siglip2": {"vision_config": {**_TOWER, "num_patches": 16, "patch_size": 16}},
    **dict.fromkeys(("swin", "swinv2", "donut-swin"), _STAGES),
    **dict.fromkeys(("regnet", "resnet"), _CONV),
    **dict.fromkeys(("convnext", "convnextv2"), _CONVNEXT),
    "bit": {**_CONV, "num_groups": 8},
    "cvt": {"embed_dim": [16, 32, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    "dinat": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320, "image_size": _IMAGE},
    "focalnet": {"embed_dim": 16, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3]},
    "hgnet_v2": {},
    "hiera": {"embed_dim": 16, "depths": [1, 1, 1, 1], "image_size": [128, 128]},
    "imagegpt": {"n_embd": 32, "n_layer": 1, "n_head": 2},
    "levit": {"image_size": 128, "hidden_sizes": [32, 48, 64], "depths": [1, 1, 1], "num_attention_heads": [2, 3, 4]},
    **dict.fromkeys(("mobilenet_v1", "mobilenet_v2"), _MOBILE),
    "mobilevit": {"hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64]},
    "mobilevitv2": {"width_multiplier": 0.5},
    "perceiver": {"num_latents": 8, "d_latents": 32, "d_model": 32, "num_self_attends_per_block": 1},
    "poolformer": {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32]},
    "pp_lcnet": {},
    "pvt": {
        "image_size": 128,
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [16, 32, 32, 32],
        "num_attention_heads": [1, 1, 2, 2],
    },
    "pvt_v2": {
        "image_size": 128,
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [16, 32, 32, 32],
        "num_attention_heads": [1, 1, 2, 2],
    },
    "segformer": {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 32, 32], "num_attention_heads": [1, 1, 2, 2]},
    "swiftformer": {"embed_dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "image_size": 128},
    "textnet": {},
    "timm_wrapper": {"architecture": "test_vit"},
}
"""What makes transformers' own configurations small. ShieldGemma 2 is a language model."""


@dataclass(frozen=True)
class Verdict:
    """What became of one classifier."""

    name: str
    head: str = ""
    place: str = ""
    grid: str = ""
    error: float = 0.0
    localises: bool = False
    agreement: float = 0.0
    why: str = ""

    def row(self) -> str:
        """A row of the table."""
        shows = "yes" if self.localises else "no"
        measured = f"{self.error:.0e} | {self.agreement:.2f} | {shows}"
        return f"| {self.name} | {self.head} | `{self.place}` | {self.grid} | {measured} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME")
    only = parser.parse_args().only
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    _print("torchvision", [_measured(spec) for spec in _torchvision_specs() if only in spec.name])
    with tempfile.TemporaryDirectory() as folder:
        _print("transformers", [*_transformers(Path(folder), only)])


def _torchvision_specs() -> Iterator[TeacherSpec]:
    for name in torchvision.models.list_models(module=torchvision.models):
        patch = re.fullmatch(r"vit_._(\d+)", name)
        side = 224 if name.startswith("maxvit") else 128 if "incep" in name else 4 * int(patch[1]) if patch else _IMAGE
        yield TeacherSpec(name=f"torchvision:{name}", random_weights=0, image_size_hw=(side, side), device="cpu")


def _transformers(folder: Path, only: str) -> Iterator[Verdict]:
    for kind, classes in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.items():
        name = f"transformers:{kind}"
        if only not in name:
            continue
        if kind not in _SMALL:
            yield Verdict(name, why="a language model")
            continue
        try:
            config = transformers.AutoConfig.for_model(kind, num_labels=10, initializer_range=0.1, **_SMALL[kind])
            config.architectures = [classes if isinstance(classes, str) else classes[0]]
            config.save_pretrained(folder / kind)
        except Exception as error:  # noqa: BLE001 - the table says why
            yield Verdict(name, why=f"not built: {type(error).__name__}: {error}")
            continue
        has_size = isinstance(getattr(config, "image_size", None), (int, list, tuple)) or kind in ("clip", "siglip")
        size_hw = None if has_size else (_IMAGE, _IMAGE)
        if kind in ("clip", "metaclip_2", "siglip"):
            size_hw = (64, 64)
        spec = TeacherSpec(name=f"transformers:{folder / kind}", random_weights=0, image_size_hw=size_hw, device="cpu")
        yield _measured(spec, name)


def _measured(spec: TeacherSpec, name: str = "") -> Verdict:
    name = name or spec.name
    print(name, file=sys.stderr, flush=True)
    try:
        teacher = load_teacher(spec)
    except TeacherError as error:
        return Verdict(name, why=str(error).replace(spec.name, name))
    dense: Any = teacher.forward
    proof = teacher.proof
    off = proof.linear_error if proof.kind == "linear" else proof.constant_error
    head = proof.kind + (", repeated" if proof.repeated else "")
    return Verdict(
        name, head, getattr(dense.model, "place", ""), str(teacher.grid), off, proof.localises, proof.agreement
    )


def _print(source: str, verdicts: list[Verdict]) -> None:
    if not verdicts:
        return
    proved = [v for v in verdicts if v.head]
    linear = sum(v.head.startswith("linear") for v in proved)
    counts = f"{len(proved)} of {len(verdicts)} are proved, {linear} of them linear, the others constant-field."
    print(f"### {source}\n\n{counts}\n\n| teacher | head | feature map | grid here | error | agreement | localises |")
    print("|---|---|---|---|---|---|---|")
    print(*(v.row() for v in proved), "", sep="\n")
    for verdict in verdicts:
        if not verdict.head:
            print(f"- {verdict.name}: {verdict.why}")
    print(flush=True)


if __name__ == "__main__":
    main()
