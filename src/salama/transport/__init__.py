"""What lies between a socket and the protocols: BOLT 8's encryption and BOLT 1's conversation."""
