"""Every driver of the registry has all that the protocol names, with the same parameters."""

from __future__ import annotations

import inspect

import pytest

from fastlayer.drivers import registry
from fastlayer.snapshot.driver import Driver

METHODS = [name for name, value in vars(Driver).items() if inspect.isroutine(inspect.unwrap(getattr(Driver, name)))]
METHODS = [name for name in METHODS if not name.startswith("_")]


@pytest.mark.parametrize("name", registry._HOME)
def test_the_protocol_is_complete(name: str) -> None:
    found = registry.driver_class(name)
    assert "own_tree" in METHODS and len(METHODS) > 12
    for method in METHODS:
        ours, wanted = (inspect.signature(getattr(kind, method)).parameters for kind in (found, Driver))
        assert list(ours) == list(wanted), method
    assert found.name == name and isinstance(found.independent, bool)
