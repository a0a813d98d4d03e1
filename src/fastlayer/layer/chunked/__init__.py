"""Layers whose files can be fetched one by one: zstd:chunked and eStargz (docs/formats.md)."""
