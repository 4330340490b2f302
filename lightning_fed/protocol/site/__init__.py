"""The site's wing: its state machine, what it sends of each round, and what it fetches."""
