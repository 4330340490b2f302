"""Whole federations on one machine: real processes, real sockets, one configuration file."""
