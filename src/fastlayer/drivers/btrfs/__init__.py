"""The ``btrfs`` driver: a subvolume per layer, a snapshot per child, changes by generation."""

from fastlayer.drivers.btrfs.driver import Btrfs

__all__ = ["Btrfs"]
