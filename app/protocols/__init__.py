"""HTTP adapters: parse, authenticate, make one service call, render."""
