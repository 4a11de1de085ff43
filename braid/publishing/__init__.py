"""Models as folders with a card, and on the Hub."""

from braid.publishing.card import ours, write_card
from braid.publishing.folder import save
from braid.publishing.hub import MESSAGE, push

__all__ = ["MESSAGE", "ours", "push", "save", "write_card"]
