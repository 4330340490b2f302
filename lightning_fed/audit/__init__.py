"""Logs that nobody can rewrite unseen: the coordinator's events, and what left a site."""
