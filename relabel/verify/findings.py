"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One broken promise. `shard` and `row` are -1, and `key` empty, where it is about more than one."""

    shard: int
    row: int
    key: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsReport:
    """The outcome of `verify_shards`: what was looked at, and what was found, ordered by shard and row."""

    shards: int
    images: int
    labelled: int
    failed: int
    images_compared: int
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings
