"""What instructions that may change files do: one module for each kind."""
