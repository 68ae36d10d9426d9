"""A trainer's transform that also tells what it shows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any, Literal

from relabel.errors import InvalidValueError
from relabel.geometry.views import View
from relabel.tracking.following import Following, Rules
from relabel.tracking.handling import Part, follow
from relabel.tracking.noticing import Noticed, State
from relabel.tracking.trying import without_ignored

_WHOLE = View.whole()


class TrackedTransform:
    """A trainer's transform that also tells the `View` it made. Picklable if the transform is.

    Knows the steps of torchvision's transforms v1 and v2, of timm and of albumentations, by their exact class, and what
    runs them: ``Compose``, ``nn.Sequential``, ``RandomApply``, ``RandomChoice``, ``RandomOrder``. And Pillow's
    ``exif_transpose``. A pipeline of albumentations is called with the image as an array, and its output is
    the answer's ``"image"``. Any other object
    with such steps inside is watched while it runs them (a preset, a wrapper that makes two views, a lambda, partial or
    method that calls them). What is neither, a child of a known class, a step that was changed, or a function, is tried
    out on images that encode their places, and taken if it shows what its class shows, or what it tells itself by
    returning ``(image, relabel.View)``, or moves no pixel. Those are 24 as the steps before it make them, of 32 to 1024
    pixels, and 260 small ones of many colours, with frames, and of Pillow's modes: what a step does to one image of
    fifty is missed less than once in a hundred. Out of reach is what it does to rarer ones, to later ones (by a count
    of its own, by time), or by what is on them (a face).

    Steps that are exchanged later in a list of steps are followed, or refused, at the next image; steps that get a hook
    or a method too. A tried step is tried again when something was set anew that it held then: attributes, theirs,
    entries, buffers, what its function closes over or reads by name in its module, methods of its class; the 64 nearest
    to it, five deep. Where that is set for every image, every image costs another trial. Out of reach is what it reads
    elsewhere: the environment, files, other modules' names, a shared tensor that another process writes; entries of
    long lists and arrays, and what its own calls change, too.

    Args:
        transform: the transform, from an image (PIL, or a tensor (..., height, width)) to anything; None keeps images.
        untracked: steps, and classes of steps that are not followed, whose effect is taken not to matter for labels;
            views are then not exact, and good for image labels only, except after a step that is known to be still.
        geometry: what to do with steps that are known to move pixels in a way that no view tells (perspective, elastic,
            AugMix): "ignore" them, and log once what this costs; their views are not exact, and good for image labels
            only. Or "refuse" them.
        check: whether to try out what is not known; with False it is refused.

    Raises:
        InvalidValueError: a step cannot be followed; names each, and the ways out. Or `untracked` lists a class whose
            steps are followed, or may do anything.
    """

    def __init__(
        self,
        transform: Callable[[Any], Any] | None,
        untracked: Collection[object] = (),
        *,
        geometry: Literal["ignore", "refuse"] = "ignore",
        check: bool = True,
    ) -> None:
        self._transform = transform
        self._rules = Rules(tuple(untracked), geometry, check)
        self._followed = self._follow()

    @property
    def transform(self) -> Callable[[Any], Any] | None:
        """The transform that is tracked."""
        return self._transform

    def _follow(self) -> tuple[tuple[Part, ...], tuple[Noticed | State, ...]]:
        if self._transform is None:
            return (), ()
        following = Following(self._rules)
        parts = following.parts(self._transform)
        if following.refused:
            named = ", ".join(name + (f" ({why})" if why else "") for name, why in following.refused.items())
            raise InvalidValueError(
                f"cannot follow the view through {named}. Known are the steps of torchvision (v1, v2), timm and "
                "albumentations. If a step moves no pixels, or its effect on labels may be ignored, give "
                "TrackedTransform(transform, untracked=(the step,)). Else let it return (image, relabel.View), or say "
                "what its class shows with relabel.register_view; or crop by yourself, and give "
                "relabel.Box.from_crop(top, left, height, width, image_size) to ScoreMap.pool"
            )
        return parts, tuple(following.noticed)

    def __call__(self, image: Any) -> tuple[Any, Any]:
        """The transform's output, and the `View` of the image that it shows; of several outputs a tuple of views.

        Raises:
            InvalidValueError: what a step shows is not known, or a step was exchanged for one that cannot be followed.
        """
        parts, noticed = self._followed
        for each in noticed:
            if each.is_other():
                self._followed = parts, _ = self._follow()
                break
        output, shown = follow(parts, image)
        return output, _WHOLE if shown is None else shown

    def for_proof(self) -> TrackedTransform:
        """A copy to be run on position images, with generators of its own.

        It leaves out the steps that are ignored: what they move would hide whether the others show what they tell.
        """
        try:
            copied = copy.deepcopy(self)
        except Exception:  # noqa: BLE001 - a step may hold what cannot be copied, a file or a lock; then it is run itself
            copied = copy.copy(self)
        parts, noticed = copied._followed
        copied._followed = without_ignored(parts), noticed
        return copied


def tracked(
    transform: Callable[[Any], Any] | None, *, geometry: Literal["ignore", "refuse"] = "ignore", check: bool = True
) -> TrackedTransform:
    """The transform as a `TrackedTransform`, which it may be already."""
    if isinstance(transform, TrackedTransform):
        return transform
    return TrackedTransform(transform, geometry=geometry, check=check)
