"""The ``lightning-fed`` command, one file a command group."""
