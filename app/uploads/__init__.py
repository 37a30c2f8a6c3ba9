"""The product: what can be done with an upload, whatever the protocol."""
