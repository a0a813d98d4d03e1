"""Registries of images: where images are, who may ask for them, and how.

The modules of what a person has set up (``places``, ``credentials``, ``helpers``, ``settings``, ``certificates``,
``pauses``) open no connection: they read files, and programs that keep secrets.
"""
