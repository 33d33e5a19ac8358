"""Many machines on one server, each in a network namespace of its own: cut off, paused, killed; nothing is lost."""
