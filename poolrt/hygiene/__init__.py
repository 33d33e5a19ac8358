"""Whether a child is still clean: what was read of it comes in, a verdict with its numbers goes out."""
