"""Labels for a trainer: a store by key, datasets and streams of crops that know their label, and batches of them."""

from relabel.loader.batch import CropLabels, collate
from relabel.loader.checking import ViewsReport, check_views
from relabel.loader.crops import CropLabel
from relabel.loader.hf import hf_loss
from relabel.loader.labeled import Labeled, LabeledCrops
from relabel.loader.maps import LabelMaps, open
from relabel.loader.streams import LabeledSample

__all__ = [
    "CropLabel",
    "CropLabels",
    "LabelMaps",
    "Labeled",
    "LabeledCrops",
    "LabeledSample",
    "ViewsReport",
    "check_views",
    "collate",
    "hf_loss",
    "open",
]
