"""What a verification may be asked for besides looking at everything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from relabel.errors import InvalidValueError
from relabel.options import Option, SourceOptions, check_options


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsOptions(SourceOptions):
    """Which part of a store is looked at, and what is done about what is found."""

    shards: Annotated[
        str | None, Option("Only shards A to B - 1; either may be left out.", "run", unset="all", metavar="A:B")
    ] = None
    subset: Annotated[
        str | None, Option("Only the i-th of n parts, i from 1 to n.", "run", unset="all", metavar="I/N")
    ] = None
    repair: Annotated[
        bool, Option("Retract the shards that are damaged, and no others, and remove what dead runs left.", "run")
    ] = False
    copy: Annotated[
        str | None,
        Option("With --repair: a copy of the store, which damaged shards are restored from.", "run", flag="--from"),
    ] = None

    digest: Annotated[
        str | None,
        Option("The digest that the store must have, as `relabel inspect --digest` prints it.", "run", metavar="HEX"),
    ] = None

    def __post_init__(self) -> None:
        check_options(self)
        if self.digest is not None:
            # The command line declares its options before it loads numpy.
            from relabel.store.digest import check_store_digest

            check_store_digest(self.digest)
        if self.shards is not None and self.subset is not None:
            raise InvalidValueError("give --shards or --subset, not both")
        if self.copy is not None and not self.repair:
            raise InvalidValueError("--from says what --repair takes files from: give that too")
        self._range()
        self._part()

    @property
    def is_part(self) -> bool:
        """Whether anything may be left out."""
        return self.shards is not None or self.subset is not None

    def chosen(self, count: int) -> range:
        """The shards to look at, of `count`; the n subsets of a store are disjoint, and together all of it.

        Raises:
            InvalidValueError: no shard of the store is among them.

        >>> ShardsOptions(shards="2:5").chosen(4), ShardsOptions(subset="2/3").chosen(8)
        (range(2, 4), range(1, 8, 3))
        """
        first, last = self._range()
        number, parts = self._part()
        found = range(count)[first:last][number - 1 :: parts]
        if count and not found and self.shards is not None:
            raise InvalidValueError(f"--shards {self.shards} holds none of the store's shards 0 to {count - 1}")
        return found

    def _range(self) -> tuple[int | None, int | None]:
        if self.shards is None:
            return None, None
        found = re.fullmatch(r"(\d*):(\d*)", self.shards, re.ASCII)
        if found is None:
            raise InvalidValueError(f"shards must be A:B, as 0:100 or 900:, counted from 0; got {self.shards!r}")
        first, last = (int(text[:18]) if text else None for text in found.groups())
        if first is not None and last is not None and first >= last:
            raise InvalidValueError(f"shards A:B are A to B - 1, so A must be below B; got {self.shards!r}")
        return first, last

    def _part(self) -> tuple[int, int]:
        if self.subset is None:
            return 1, 1
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.subset, re.ASCII)
        number, parts = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= parts:
            raise InvalidValueError(f"subset must be i/n, as 1/7 to 7/7; got {self.subset!r}")
        return number, parts
