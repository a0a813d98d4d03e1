"""Building images: the Dockerfile language, the cache, and what carries the instructions out."""
