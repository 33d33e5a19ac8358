"""A leaky SQLAlchemy app under a PostgreSQL that allows few connections: on poolrt, and on Celery's prefork pool."""
