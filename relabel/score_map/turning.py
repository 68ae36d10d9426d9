"""Score maps of a decoded image, turned to those of the upright one."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from relabel.errors import InvalidValueError, LabelError
from relabel.geometry import Footprint, Grid
from relabel.geometry.frames import is_transposing, turned, turned_boxes
from relabel.score_map.tensors import MapTensors

_Maps = TypeVar("_Maps", bound=MapTensors)


def turned_maps(maps: _Maps, orientations: Tensor) -> _Maps:
    """See `ScoreMap.turned`."""
    wanted = _checked(orientations, len(maps))
    moved = [orientation for orientation in wanted.unique().tolist() if orientation != 1]
    if not moved:
        return maps
    refuse_turned_grid(maps.grid, moved)
    planes, rest = maps.planes.clone(), maps.rest.clone()
    is_whole = isinstance(maps.footprint, Footprint) and maps.footprint.is_whole
    footprints = maps.footprints_xyxy().clone()
    for orientation in moved:
        rows = (wanted == orientation).nonzero()[:, 0]
        there = rows.to(planes.device)
        planes[there] = turned(planes[there], orientation)
        rest[there] = turned(rest[there], orientation)
        rows = rows.to(footprints.device)
        footprints[rows] = turned_boxes(footprints[rows], orientation)
    return replace(maps, planes=planes, rest=rest, footprint=maps.footprint if is_whole else footprints)


def refuse_turned_grid(grid: Grid, orientations: list[int]) -> None:
    """Raise a LabelError where an orientation would give a map that is no square another grid."""
    if grid.height != grid.width and any(map(is_transposing, orientations)):
        raise LabelError(
            f"maps of {grid} cells cannot be turned by a quarter, as an EXIF orientation of 5 to 8 asks for: maps of a "
            "batch have one grid. Load images in the frame of the store, or label them again with a square --grid, or "
            "with --exif as images are loaded"
        )


def _checked(orientations: Tensor, count: int) -> Tensor:
    """Them on the CPU, one a map, each of EXIF's."""
    is_tensor = isinstance(orientations, Tensor)
    if not is_tensor or orientations.shape != (count,) or orientations.is_floating_point():
        what = f"{tuple(orientations.shape)} of {orientations.dtype}" if is_tensor else type(orientations).__name__
        raise InvalidValueError(f"orientations must be whole numbers ({count},), one a map; got {what}")
    wanted = orientations.cpu().long()
    if bool(((wanted < 1) | (wanted > 8)).any()):
        strange = int(wanted[(wanted < 1) | (wanted > 8)][0])
        raise InvalidValueError(f"an EXIF orientation is 1 to 8; got {strange}")
    return wanted
