"""fastlayer: container image layers at native speed."""

from fastlayer._version import __version__

__all__ = ["__version__"]
