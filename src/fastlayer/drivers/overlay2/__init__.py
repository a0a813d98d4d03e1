"""Snapshots on the kernel's overlayfs: a directory of changes per snapshot, stacked by the kernel when mounted."""

from fastlayer.drivers.overlay2.driver import Overlay2

__all__ = ["Overlay2"]
