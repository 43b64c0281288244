"""The terminal: `salama COMMAND`. The node's methods become commands from the one schema in ``api.schema``."""
