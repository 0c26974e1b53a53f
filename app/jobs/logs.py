"""Structured logs: one JSON object a line on stderr, with the job id where there is one.

Never a patient's name, a UID or the name of a file that was sent: log ids, codes and numbers.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any, cast

import structlog

#: They log the address of each call that we make: of a webhook it may hold a secret, of a PACS it names the study.
_TELL_ADDRESSES = ("httpx", "httpx2", "httpcore", "httpcore2")

_SHARED: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure_logs(level: str) -> None:
    """Send this process's logs, and those of its libraries, to stderr as JSON."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    # Libraries repeat values of headers in warnings. To silence them where they arise is not enough: one thread's
    # catch_warnings undoes another's.
    warnings.simplefilter("ignore")
    for library in _TELL_ADDRESSES:
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose events carry `name`."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(name))
