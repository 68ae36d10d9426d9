"""Losses of soft labels and token labels."""

from relabel.losses.soft import SoftCrossEntropy as SoftCrossEntropy
from relabel.losses.soft import soft_cross_entropy as soft_cross_entropy
from relabel.losses.token_labeling import TokenLabelingLoss as TokenLabelingLoss
