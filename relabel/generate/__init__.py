"""Generating a store: a teacher runs once over every image, in three overlapping stages."""

from relabel.generate.options import GenerateOptions, GenerateSummary
from relabel.generate.run import generate
from relabel.plan import Failure

__all__ = ["Failure", "GenerateOptions", "GenerateSummary", "generate"]
