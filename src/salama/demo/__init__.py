"""What ``salama demo`` plays: real processes, real messages, and books that anybody may check again afterwards."""

from typing import Final

SCRIPTS: Final = {
    "tour": "channels, payments, a crash, closes: the life of a network",
    "force-close": "Bob is gone, and Alice takes her money home without him",
    "cheat": "Bob publishes an old state, and loses everything",
    "offline": "Carol disappears with a payment on its way through Bob",
}
"""The stories, by name, and what each is about."""
