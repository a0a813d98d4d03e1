"""Docker's volume plugins (docs.docker.com/engine/extend/plugins_volume): a client of theirs, and a server for Docker.

JSON is posted to ``/VolumeDriver.Create`` and its like over a unix socket or TCP. ``protocol.py`` has what both sides
share.
"""
