"""Makes the facts of takes, as `survey` counts them, for tests without a release."""

from dataclasses import replace

from egoexo_tools.release.survey import TakeFacts
from egoexo_tools.vocab import Split

FIRST = TakeFacts(
    take_uid="t0",
    take_name="cmu_a_1",
    scenario="Cooking",
    university="cmu",
    task="",
    split=Split.TRAIN,
    capture="c0",
    capture_named=True,
    participant="p0",
    objects=("cup_0",),
    cameras=("aria01_214-1", "cam01"),
    frame_idxs=(0, 30),
    masks=4,
    pairs=4,
    seconds=10.0,
    video_bytes=1000,
)


def take_facts(number: int, **changes: object) -> TakeFacts:
    """The take `t<number>`, a train take of the scenario Cooking, with some fields changed."""
    values = {"take_uid": f"t{number}", "take_name": f"cmu_a_{number}", **changes}
    return replace(FIRST, **values)  # type: ignore[arg-type]
