"""What labels are worth: stored maps against their teacher, labels of crops against what it says of their pixels."""

from relabel.worth.fidelity import LabelLine
from relabel.worth.labels import LabelsOptions, LabelsReport, verify_labels
from relabel.worth.rebuilding import RerunOptions
from relabel.worth.recommend import Recommendation

__all__ = ["LabelLine", "LabelsOptions", "LabelsReport", "Recommendation", "RerunOptions", "verify_labels"]
