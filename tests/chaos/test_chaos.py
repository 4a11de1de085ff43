"""The small form of every disturbance; `make chaos` runs the large one."""

from __future__ import annotations

import importlib
import logging

import pytest

from tests.chaos.__main__ import NAMES, main


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_survives(name, tmp_path):
    logging.disable(logging.DEBUG)  # pytest keeps torch's lines, and one of these counts memory
    try:
        said = importlib.import_module(f"tests.chaos.{name}").main(tmp_path, quick=True)
    finally:
        logging.disable(logging.NOTSET)
    assert said


def test_each_name_has_a_script(capsys):
    with pytest.raises(SystemExit):
        main(["earthquake"])
    assert "unknown: ['earthquake']" in capsys.readouterr().err
