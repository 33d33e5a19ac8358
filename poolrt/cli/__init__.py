"""The command line. ``main`` is its door; each command is a module that loads when it is named."""
