"""What labels are worth: stored maps against their teacher, labels of crops against what it says of their pixels."""

from typing import TYPE_CHECKING

from relabel.lazily import lazily

if TYPE_CHECKING:
    from relabel.worth.fidelity import LabelLine as LabelLine
    from relabel.worth.labels import LabelsReport as LabelsReport
    from relabel.worth.labels import verify_labels as verify_labels
    from relabel.worth.options import LabelsOptions as LabelsOptions
    from relabel.worth.options import RerunOptions as RerunOptions
    from relabel.worth.recommend import Recommendation as Recommendation
    from relabel.worth.sizes import SizeLine as SizeLine
    from relabel.worth.sizes import SizesReport as SizesReport
else:
    __getattr__, __dir__, __all__ = lazily(__name__)
