"""The coordinator's wing: its state machine, and what becomes of the sites' uploads and metrics."""
