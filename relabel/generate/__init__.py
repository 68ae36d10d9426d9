"""Generating a store: a teacher runs once over every image, in three overlapping stages."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from relabel.lazily import lazily

if TYPE_CHECKING:
    from relabel.generate.options import GenerateOptions as GenerateOptions
    from relabel.generate.options import GenerateSummary as GenerateSummary
    from relabel.generate.run import generate as generate
    from relabel.plan import Failure as Failure
else:
    __getattr__, __dir__, __all__ = lazily(__name__)


class _Callable(ModuleType):
    """`relabel.generate` is this package as soon as anything imports it, and the function of that name before."""

    def __call__(self, *args: Any, **given: Any) -> Any:
        """What `generate` does."""
        return self.generate(*args, **given)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (__name__,)


sys.modules[__name__].__class__ = _Callable
