"""What runs in a peer's own interpreter: imported by file name, with this folder on PYTHONPATH, never as a package."""
