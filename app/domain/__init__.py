"""Pure rules without I/O: states, geometry of parts, tokens, names, digests."""
