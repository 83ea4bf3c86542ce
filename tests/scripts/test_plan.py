"""The plan for the whole data set: its arithmetic, and the copy in docs/real-data.md."""

import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
sys.path.append(str(PROJECT / "scripts"))
import plan  # noqa: E402

RATES = """
[machines]
small = "a small machine"
[ingest]
{ingest}
[frames]
{frames}
[propose]
{propose}
[features]
{features}
[train]
{train}
[predict]
{predict}
"""
CORE = 'rate = 500\nunit = "things/s"\non = "small"\nper = "core"\ndate = 2026-01-02\ncommand = "x"'


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    names = ("ingest", "frames", "propose", "features", "train", "predict")
    text = RATES.format(**{name: CORE for name in names} | {"train": CORE.replace("core", "GPU")})
    (tmp_path / "rates.toml").write_text(text)
    return tmp_path / "rates.toml"


def test_work_is_divided_by_rate_and_by_cores_or_gpus(rates: Path) -> None:
    lines = plan.page(rates, [(2, 10)])
    (ingest,) = [line for line in lines if line.startswith("| ingest | 1,8")]
    cells = ["1,800,000 things", "500/s per core", "6 min"]  # 1.8e6 / 500 / 10 s
    assert ingest.split(" | ")[1:4] == cells
    (training,) = [line for line in lines if line.startswith("| training, all")]
    cells = ["4,770,000 things", "500/s per GPU", "80 min"]  # 2 x 3 x 795,000 / 500 / 2 s
    assert training.split(" | ")[1:4] == cells
    assert lines[-1].endswith("predict: a small machine (`x`, 2026-01-02)")


def test_a_cached_value_takes_two_bytes() -> None:
    data = plan.DataSet(takes=1, seconds=1, masks=2, proposals=3)
    masks = (1 + 3) * 2 * 768
    assert data.cache_bytes("fp16") == 2 * (768 * (2500 + 2584) + 2 * masks)


def test_the_page_has_the_output_of_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main([])
    page = (PROJECT / "docs/real-data.md").read_text()
    assert f"{plan.BEGIN}\n{capsys.readouterr().out}{plan.END}" in page


def test_every_rate_names_its_machine() -> None:
    machines, rates = plan.read_rates(plan.RATES)
    assert {rate.on for rate in rates.values()} <= set(machines)
    assert all(rate.rate > 0 and rate.command for rate in rates.values())
