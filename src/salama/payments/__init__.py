"""What an HTLC means: our own payments, our invoices, and forwarding for others (BOLT 2 B2.48, BOLT 4). Pure.

It sees channels only through ``channel.events`` and the views in ``payments.views``; it never sees a key, a clock or
a disk.
"""
