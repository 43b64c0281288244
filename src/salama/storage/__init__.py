"""The disk: one writer that commits in groups, numbered migrations, records as rows. It decides nothing about money."""
