"""Imports of a command: the collector is away while they run, and what they made is kept."""

import gc
import sys

import pytest

from braid.startup import importing


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    (tmp_path / "a_fresh_module.py").write_text("import gc\nduring = gc.isenabled()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    gc.unfreeze()
    yield
    sys.modules.pop("a_fresh_module", None)
    gc.unfreeze()


def test_nothing_is_collected_while_a_module_is_imported(fresh):
    with importing():
        import a_fresh_module  # pyright: ignore[reportMissingImports]
    assert not a_fresh_module.during
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_what_is_already_imported_freezes_nothing(fresh):
    with importing():
        import sys as again
    assert again is sys
    assert gc.get_freeze_count() == 0


def test_the_collector_comes_back_where_an_import_fails(fresh):
    with pytest.raises(ModuleNotFoundError), importing():
        import no_such_module_at_all  # noqa: F401  # pyright: ignore[reportMissingImports]
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(fresh):
    gc.disable()
    try:
        with importing():
            import a_fresh_module  # noqa: F401  # pyright: ignore[reportMissingImports]
        assert not gc.isenabled()
    finally:
        gc.enable()
