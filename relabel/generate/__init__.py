"""Generating a store: a teacher runs once over every image, in three overlapping stages."""

from relabel.generate.options import Failure, GenerateOptions, GenerateSummary
from relabel.generate.run import generate

__all__ = ["Failure", "GenerateOptions", "GenerateSummary", "generate"]
