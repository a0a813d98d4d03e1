"""Where images come from and where they go: registries, layouts, archives, directories, the store."""
