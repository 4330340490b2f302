"""ZeroMQ: sockets, CURVE identities, the connection of a site, the hub of the coordinator."""
