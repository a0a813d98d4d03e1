"""The Dockerfile language (BuildKit frontend 1.20): text to instructions, instructions to stages."""
