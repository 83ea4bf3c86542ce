import threading
from pathlib import Path

from egoexo_tools.download.ledger import Ledger, occupied_bytes, round_to_blocks


def test_a_reservation_waits_for_a_release() -> None:
    ledger = Ledger(total_bytes=100, used_bytes=10)
    assert ledger.reserve(60)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(ledger.reserve(50)))
    thread.start()
    ledger.release(40)
    thread.join(timeout=10)
    assert (results, ledger.used_bytes) == ([True], 80)


def test_a_reservation_that_can_never_fit_is_refused_at_once() -> None:
    ledger = Ledger(total_bytes=100, used_bytes=10)
    assert not ledger.reserve(91)
    assert ledger.used_bytes == 10


def test_a_closed_ledger_wakes_and_refuses_waiting_threads() -> None:
    ledger = Ledger(total_bytes=100, used_bytes=0)
    assert ledger.reserve(60)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(ledger.reserve(50)))
    thread.start()
    ledger.close()
    thread.join(timeout=10)
    assert results == [False]


def test_files_are_counted_in_whole_blocks(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(5000))
    assert [round_to_blocks(size) for size in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
    assert occupied_bytes([tmp_path / "folder"]) >= 5000
    assert occupied_bytes([tmp_path / "missing"]) == 0
