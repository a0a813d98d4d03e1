"""Volumes: data that outlives containers.

A volume has a name, a driver, options and labels; the books are in the database (``books.py``), the data is where its
driver has it (``driver.py``): ``<root>/volumes/NAME/_data`` with the driver ``local``.
Users - containers, clients of a plugin - take one with ``use.acquire`` and give it back with ``use.release``; while
anybody has it, it cannot be removed.
"""
