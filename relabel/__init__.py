"""Offline teacher labels for image training: score maps, their store, and the soft label of any crop.

What is listed here is what users may rely on; docs/api.md tells of each. Everything else is private.
"""

from typing import TYPE_CHECKING

from relabel.lazily import lazily

__version__ = "0.1.0"

if TYPE_CHECKING:
    from relabel import published as published
    from relabel.comparing import StoreDiff as StoreDiff
    from relabel.comparing import diff as diff
    from relabel.errors import DamagedStoreError as DamagedStoreError
    from relabel.errors import ImageError as ImageError
    from relabel.errors import InvalidValueError as InvalidValueError
    from relabel.errors import LabelError as LabelError
    from relabel.errors import ManifestMismatchError as ManifestMismatchError
    from relabel.errors import RelabelError as RelabelError
    from relabel.errors import ReplacedStoreError as ReplacedStoreError
    from relabel.errors import SourceError as SourceError
    from relabel.errors import StoreBusyError as StoreBusyError
    from relabel.errors import StoreError as StoreError
    from relabel.errors import TeacherError as TeacherError
    from relabel.generate import GenerateOptions as GenerateOptions
    from relabel.generate import generate as generate
    from relabel.geometry import Box as Box
    from relabel.geometry import Footprint as Footprint
    from relabel.geometry import Grid as Grid
    from relabel.geometry.views import View as View
    from relabel.geometry.views import Views as Views
    from relabel.images import open_source as open_source
    from relabel.importers import ImportOptions as ImportOptions
    from relabel.importers import import_archive as import_archive
    from relabel.labels import MixedLabels as MixedLabels
    from relabel.labels import SparseLabels as SparseLabels
    from relabel.loader import CropLabel as CropLabel
    from relabel.loader import CropLabels as CropLabels
    from relabel.loader import Labeled as Labeled
    from relabel.loader import LabeledCrops as LabeledCrops
    from relabel.loader import LabeledSample as LabeledSample
    from relabel.loader import LabelMaps as LabelMaps
    from relabel.loader import ViewsReport as ViewsReport
    from relabel.loader import check_views as check_views
    from relabel.loader import collate as collate
    from relabel.loader import hf_loss as hf_loss
    from relabel.loader import open as open
    from relabel.losses import SoftCrossEntropy as SoftCrossEntropy
    from relabel.losses import TokenLabelingLoss as TokenLabelingLoss
    from relabel.losses import soft_cross_entropy as soft_cross_entropy
    from relabel.manifest import Manifest as Manifest
    from relabel.merging import merge as merge
    from relabel.mixing import CutMix as CutMix
    from relabel.mixing import MixToken as MixToken
    from relabel.mixing import Mixup as Mixup
    from relabel.reading import Reading as Reading
    from relabel.score_map import ScoreMap as ScoreMap
    from relabel.teacher import EnsembleSpec as EnsembleSpec
    from relabel.teacher import TeacherSpec as TeacherSpec
    from relabel.tickets import Tickets as Tickets
    from relabel.tickets import ground_truth as ground_truth
    from relabel.tickets import moved as moved
    from relabel.tracking import TrackedTransform as TrackedTransform
    from relabel.tracking import register_view as register_view
    from relabel.verify import ShardsOptions as ShardsOptions
    from relabel.verify import verify_shards as verify_shards
    from relabel.worth import LabelsOptions as LabelsOptions
    from relabel.worth import RerunOptions as RerunOptions
    from relabel.worth import verify_labels as verify_labels
    from relabel.writing import WriteOptions as WriteOptions
    from relabel.writing import write as write
else:
    __getattr__, __dir__, __all__ = lazily(__name__)
