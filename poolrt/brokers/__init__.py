"""Brokers: where messages wait, are leased and end. ``base`` is the contract; one module or package for each broker."""
