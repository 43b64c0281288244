"""Cryptography: curve arithmetic, hashes, ciphers, the tree of per-commitment secrets, and seeds."""
