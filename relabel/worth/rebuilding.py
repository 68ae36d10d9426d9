"""From a manifest to the teachers that made its store, and what only the user can say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from relabel.errors import TeacherError
from relabel.manifest import Manifest, MemberRecord
from relabel.options import declared, for_each
from relabel.teacher import EnsembleSpec, TeacherSpec
from relabel.teacher.devices import find_device
from relabel.worth.options import RerunOptions


def recorded_members(manifest: Manifest) -> list[MemberRecord]:
    """Every forward pass that a manifest tells of, but for mirrored ones.

    Raises:
        TeacherError: another program made the maps, and did not say how images were made ready for its teacher.
    """
    if manifest.preprocessing is None:
        raise TeacherError(
            f"the store was written by another program (teacher {manifest.teacher.name!r}), so there is no teacher to "
            "run again; `relabel verify shards` checks all else"
        )
    return [MemberRecord(teacher=manifest.teacher, preprocessing=manifest.preprocessing), *manifest.others]


def rerun_spec(manifest: Manifest, options: RerunOptions) -> EnsembleSpec:
    """The teachers of a manifest, with what the options say otherwise.

    Raises:
        TeacherError: something is needed that only the user knows; says what.
        InvalidValueError: an option has neither as many values as there are teachers, nor one that serves all.
    """
    members = recorded_members(manifest)
    are_others = bool(options.teachers) and not _are_repeated(options.teachers, members)
    if are_others:
        # Nothing that was recorded of one teacher says anything of another but how it saw images, the last of further.
        like = [members[min(number, len(members) - 1)] for number in range(len(options.teachers))]
        own: dict[str, Any] = {"weights": "pretrained", "seed": None, "kept": None}
        members = [
            replace(m, teacher=replace(m.teacher, name=name, **own))
            for m, name in zip(like, options.teachers, strict=True)
        ]
    # One teacher at several sizes is several members, and one to whoever types its name.
    identities = [(m.teacher.name, m.teacher.weights_digest, m.teacher.kept) for m in members]
    distinct = list(dict.fromkeys(identities))
    places = list(range(len(members))) if are_others else [distinct.index(identity) for identity in identities]
    asked = {
        option.name: for_each(option, given, max(places) + 1)
        for option in declared(RerunOptions)
        if option.is_many and option.name != "teachers" and (given := getattr(options, option.name))
    }
    device = find_device(options.device)
    said: dict[str, Any] = {"device": options.device}
    if device.type == "cpu":
        # A GPU's decoder and half precision are there for a GPU only.
        said |= {"decode": "cpu", "precision": "float32"}
    if options.precision is not None:
        said["precision"] = options.precision
    teachers = tuple(
        TeacherSpec.of(
            member.teacher,
            member.preprocessing,
            **(said | {field: values[place] for field, values in asked.items()}),
            # The manifest's word, unless the user has said the same.
            **({"name": member.teacher.name} if options.teachers else {}),
        )
        for member, place in zip(members, places, strict=True)
    )
    return EnsembleSpec(
        teachers=teachers, flip=manifest.flip_average, grid_hw=manifest.scores.grid_hw, mean=manifest.mean
    )


def _are_repeated(names: Sequence[str], members: Sequence[MemberRecord]) -> bool:
    """Whether the user only repeats what the manifest names, so that all else that it says of them holds."""
    recorded = [member.teacher.name for member in members]
    is_known = all(member.teacher.weights != "unknown" for member in members)
    return is_known and list(names) in (recorded, list(dict.fromkeys(recorded)))
