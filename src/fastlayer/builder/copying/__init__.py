"""What COPY and ADD put into a layer: from an instruction, variables filled in, to rows for a change table."""
