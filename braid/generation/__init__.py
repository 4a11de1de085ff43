"""Generation: contexts, the decode loop, guidance, likelihoods."""

from braid.generation.approximate import BlockCache
from braid.generation.context import CachedContext, Context, Place, RereadContext
from braid.generation.generate import Finished, Frame, Generated, Known, Opening, Watch, generate
from braid.generation.likelihood import Nats, nats
from braid.generation.together import Ended, Job, Passes, together

__all__ = [
    "BlockCache",
    "CachedContext",
    "Context",
    "Ended",
    "Finished",
    "Frame",
    "Generated",
    "Job",
    "Known",
    "Nats",
    "Opening",
    "Passes",
    "Place",
    "RereadContext",
    "Watch",
    "generate",
    "nats",
    "together",
]
