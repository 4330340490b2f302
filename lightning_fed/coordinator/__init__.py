"""The coordinator's service: rounds in time, the store of global models, the event log."""
