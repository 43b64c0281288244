"""The Bitcoin network: who is asked (``bitcoind``), what follows it (``watcher``), and one of our own (``devnet``)."""
