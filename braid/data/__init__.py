"""Data: sources of raw examples, tasks, and batches as a function of the step."""

from braid.data.loader import Loader
from braid.data.open import Data, documents_for, open_data
from braid.data.sources import Source, open_source
from braid.data.tasks import Documents, Task

__all__ = [
    "Data",
    "Documents",
    "Loader",
    "Source",
    "Task",
    "documents_for",
    "open_data",
    "open_source",
]
