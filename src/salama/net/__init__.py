"""Sockets: the shell round ``transport``."""
