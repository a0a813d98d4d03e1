"""What becomes of a built image besides its name in the store: archives, layouts, directories, notes for scripts."""
