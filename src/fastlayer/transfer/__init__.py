"""Images between registries, layouts, archives and the store: pull, push, copy."""
