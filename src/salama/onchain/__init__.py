"""One channel whose funding is being spent: what is whose, what is claimed, and what it costs (BOLT 5). Pure.

It reads the channel's record and is told blocks; it never sees a key, a clock or a disk.
"""
