"""Spans of packets contain every requested frame and start where decoding can start."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from egoexo_tools.video.packets import PacketIndex

JITTER = st.lists(st.integers(0, 6), min_size=1, max_size=30)


@given(JITTER, st.lists(st.booleans(), min_size=30, max_size=30), st.data())
def test_spans_cover_the_requested_frames(
    jitter: list[int], keys: list[bool], data: st.DataObject
) -> None:
    packets = len(jitter)
    index = PacketIndex.build(
        position=range(packets),
        size=[1] * packets,
        pts=[10 * idx + 7 * late for idx, late in enumerate(jitter)],
        is_key=[True, *keys][:packets],
        is_shown=[True] * packets,
    )
    frame_idxs = data.draw(st.sets(st.integers(0, packets - 1)))
    spans = index.spans(frame_idxs)
    assert sorted(idx for span in spans for idx in span.frame_idxs) == sorted(frame_idxs)
    for before, after in pairwise(spans):
        assert before.stop <= after.start
    for span in spans:
        for frame_idx in span.frame_idxs:
            packet = index.decode_idx[frame_idx]
            assert span.start <= index.start_of(packet) <= packet < span.stop
        assert index.is_key[span.start]
