"""The calling side: ``App``, ``Task``, ``AsyncResult``, and how a worker finds the app again."""
