"""The bench app of a service that uses SQLAlchemy: what its template imports, each child gets by fork."""

import sqlalchemy.orm  # noqa: F401
from poolrt_app import app

__all__ = ["app"]
