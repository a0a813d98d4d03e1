"""Images in registries: the client of the OCI distribution specification.

``http.py`` is the only file that talks to the network, ``client.py`` the way in.
"""
