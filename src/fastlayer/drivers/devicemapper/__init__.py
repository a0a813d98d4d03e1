"""The ``devicemapper`` driver: a thin pool, a thin device per snapshot (``docs/drivers-devicemapper.md``)."""

from fastlayer.drivers.devicemapper.driver import DeviceMapper

__all__ = ["DeviceMapper"]
