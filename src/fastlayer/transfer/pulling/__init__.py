"""What comes from a registry: layers by several connections, kept when the way breaks off, fetched in part."""
