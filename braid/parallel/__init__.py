"""Several processes as one: who they are, and how a model is laid over them."""

from braid.parallel.sharding import gathered, mesh, mesh_shape, recompute, shard
from braid.parallel.world import World, alone, join, launched, leave

__all__ = [
    "World",
    "alone",
    "gathered",
    "join",
    "launched",
    "leave",
    "mesh",
    "mesh_shape",
    "recompute",
    "shard",
]
