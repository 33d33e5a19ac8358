"""The steward: everything periodic that needs the broker; runs after a fork from the template."""
