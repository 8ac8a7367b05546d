"""What happened: a journal in one SQLite file, and its readers."""
