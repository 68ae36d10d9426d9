"""The one home of coordinates: boxes and footprints (values, without torch), and `cells`, their weights in a map."""

from relabel.geometry.boxes import WHOLE, Box, Footprint, Grid

__all__ = ["WHOLE", "Box", "Footprint", "Grid"]
