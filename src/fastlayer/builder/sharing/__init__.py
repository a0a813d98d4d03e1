"""The build cache outside of the store: what builds write for others (``--cache-to``) and take from them."""
