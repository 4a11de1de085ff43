"""The server's log: one line of JSON for each event, whatever a client sent."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

LOGGER = "braid.serving"
_OTHERS = ("braid", "uvicorn.error", "asyncio", "sse_starlette", "python_multipart")


class Lines(logging.Formatter):
    """Writes a record as one line of JSON.

    A record's attribute `fields` is a mapping of what the line says besides its time, level and
    event. JSON escapes every control character and all that is not ASCII, so that no client can
    write a line of its own or move a terminal's cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # JSON leaves DEL as it is
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")


def write_lines(stream: TextIO | None = None) -> logging.Logger:
    """Write the server's log as lines of JSON, messages of braid and of the libraries among them.

    Arguments:
        stream: that is written; standard error without one.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(Lines())
    for name in (LOGGER, *_OTHERS):  # each would write its own lines
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    return logging.getLogger(LOGGER)
