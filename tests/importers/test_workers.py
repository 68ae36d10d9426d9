"""Processes that read an archive end with their parent, and their end is an error that says what to do."""

from __future__ import annotations

import os

import pytest

import relabel.importers.workers
from relabel.errors import RelabelError
from relabel.importers.workers import Workers


def test_calls_come_back_in_order_and_a_dead_process_is_told(monkeypatch):
    monkeypatch.setattr(relabel.importers.workers, "FILES_A_PROCESS", 1)
    with Workers(2, files=2) as workers:
        assert list(workers.map(divmod, ((i, 3) for i in range(20)), ahead=3)) == [divmod(i, 3) for i in range(20)]
        with pytest.raises(RelabelError, match=r"ended by itself: killed for its memory\?.*fewer --workers"):
            list(workers.map(os._exit, [(3,)], ahead=0))
        with pytest.raises(RelabelError, match="ended by itself"):
            list(workers.map(divmod, [(1, 1)], ahead=0))


def test_few_files_need_no_process():
    with Workers(8, files=100) as workers:
        assert workers.count == 1
        assert list(workers.map(os.getpid, [()], ahead=0)) == [os.getpid()]
