"""The coordinator's arithmetic on flat vectors."""
