"""One schema of methods, and the faces that speak it: JSON-RPC on a Unix socket, and the terminal."""
