"""Heavy checks of poolrt that are not unit tests; each folder is a program: ``python -m stress.bench``."""
