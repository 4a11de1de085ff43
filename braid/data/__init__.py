"""Data: sources of raw examples, tasks, and batches as a function of their position."""

from braid.data.loader import Loader, Step, Stream
from braid.data.open import Data, Joined, documents_for, open_data, streams_for, texts_of
from braid.data.sources import Source, open_source
from braid.data.tasks import Documents, Task

__all__ = [
    "Data",
    "Documents",
    "Joined",
    "Loader",
    "Source",
    "Step",
    "Stream",
    "Task",
    "documents_for",
    "open_data",
    "open_source",
    "streams_for",
    "texts_of",
]
