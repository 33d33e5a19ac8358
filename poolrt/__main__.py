"""``python -m poolrt`` is the command ``poolrt``."""

from poolrt.cli.main import main

if __name__ == "__main__":
    main()
