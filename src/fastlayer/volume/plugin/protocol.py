"""What client and server of the volume plugin protocol share: words and limits."""

from __future__ import annotations

MEDIA_TYPE = "application/vnd.docker.plugins.v1.2+json"
ACTIVATE = "/Plugin.Activate"
DRIVER = "/VolumeDriver."  # before the name of a method
KIND = "VolumeDriver"  # what a plugin says it implements
MAX_ANSWER = 4 << 20  # bytes
MAX_REQUEST = 1 << 20  # bytes
