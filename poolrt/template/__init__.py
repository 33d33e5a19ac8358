"""The template: imports the app once, then only forks and reaps; runs after an exec by the supervisor."""
