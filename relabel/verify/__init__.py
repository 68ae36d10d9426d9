"""Verifying a store: every byte and every promise of the format, against images, and its labels against its teacher."""

from relabel.verify.fidelity import LabelLine
from relabel.verify.findings import Finding, ShardsReport
from relabel.verify.labels import LabelsOptions, LabelsReport, verify_labels
from relabel.verify.rebuilding import RerunOptions
from relabel.verify.recommend import Recommendation
from relabel.verify.shards import verify_shards

__all__ = [
    "Finding",
    "LabelLine",
    "LabelsOptions",
    "LabelsReport",
    "Recommendation",
    "RerunOptions",
    "ShardsReport",
    "verify_labels",
    "verify_shards",
]
