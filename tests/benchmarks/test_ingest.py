from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from benchmarks.ingest import measure, pictures
from ganlib.data import decoding
from ganlib.data.decoding import Workers


def test_every_way_decodes_all_and_other_pixels_are_noticed(monkeypatch) -> None:
    files = pictures(20, 48, 32)
    assert len(files) == 20
    assert len(set(files)) == 16
    with ThreadPoolExecutor(2) as pool:
        ways = {"here": Workers(pool, 2, here=True), "elsewhere": Workers(pool, 2, here=False)}
        rates, same = measure(ways, files, 16, 2)
        assert same
        assert rates.keys() == ways.keys()
        assert all(rate > 0 for rate in rates.values())
        monkeypatch.setattr(
            decoding, "_block_elsewhere", lambda names, raw, *more: decoding._block(names, raw[::-1], *more)
        )
        assert not measure(ways, files, 16, 1)[1]
