"""Which versions of what made a store."""

from __future__ import annotations

from importlib import metadata


def versions() -> dict[str, str]:
    """Of relabel and the libraries that scores depend on; "unknown" where one is not installed as a package."""
    return {name: _version(name) for name in ("relabel", "torch", "torchvision", "timm")}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # Run from a source tree that is not installed.
        return "unknown"
