"""Registries of images: where images are, who may ask for them, and the client of the OCI distribution specification.

``http.py`` is the only file that talks to the network, ``client.py`` the way in. The modules of what a person has set
up (``places``, ``credentials``, ``helpers``, ``settings``, ``certificates``, ``pauses``) open no connection: they read
files, and programs that keep secrets.
"""
