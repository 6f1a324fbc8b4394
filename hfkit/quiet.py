"""Keeps the libraries' own bars and remarks off the user's terminal; what they say goes to the run's log."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within: no progress bars from the Hugging Face libraries, and their warnings go to Python's logging alone."""
    import datasets
    import transformers

    transformers_had_bars = transformers.utils.logging.is_progress_bar_enabled()
    datasets_had_bars = datasets.are_progress_bars_disabled() is False
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    # The libraries print through handlers of their own; propagation hands their records to the run's log instead.
    library_loggers = [
        logging.getLogger(name) for name in ("transformers", "datasets", "accelerate", "peft", "bitsandbytes")
    ]
    saved = [(logger, logger.handlers[:], logger.propagate) for logger in library_loggers]
    for logger in library_loggers:
        logger.handlers = []
        logger.propagate = True
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, propagate in saved:
            logger.handlers, logger.propagate = handlers, propagate
        if transformers_had_bars:
            transformers.utils.logging.enable_progress_bar()
        if datasets_had_bars:
            datasets.enable_progress_bars()
