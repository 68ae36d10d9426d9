"""What a trainer's own transforms made of an image: the view, read off while they run.

The trainer's steps run unchanged and draw the same random numbers; a step that moves pixels is watched. Steps are known
by their exact class (`steps`), containers and wrappers by what they do with the steps in them (`watching`). A step that
is not known is refused when the pipeline is taken up, not found in a worker an hour later.
"""

from relabel.tracking.finding import register_view
from relabel.tracking.transform import TrackedTransform, tracked

__all__ = ["TrackedTransform", "register_view", "tracked"]
