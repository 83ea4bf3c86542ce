"""LM-EEC through the whole chain, from videos to the page: `run`, `status`, `report`, `compare`."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from click.testing import CliRunner  # noqa: E402
from lm_eec_networks import SMALL, small_network  # noqa: E402

from egoexo_tools.cli import main  # noqa: E402
from egoexo_tools.layout import DatasetRoot  # noqa: E402
from egoexo_tools.running.records import RunOptions  # noqa: E402
from egoexo_tools.runs import RunFolder  # noqa: E402
from egoexo_tools.synthetic import SyntheticOptions, synthesize  # noqa: E402
from egoexo_tools.vocab import Direction  # noqa: E402
from omama.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from omama.lm_eec.weights import METHOD  # noqa: E402
from omama.pipeline import PipelineOptions, run_pipeline  # noqa: E402

pytestmark = pytest.mark.slow
RUN = RunOptions(executor="inline", quiet=True)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    options = SyntheticOptions(
        scale=0.1, train_takes=1, val_takes=1, test_takes=1, objects_per_take=4, annotated_frames=9
    )
    return synthesize(tmp_path_factory.mktemp("made") / "release", options, quiet=True, workers=1)


@pytest.fixture(scope="module")
def chain(release, tmp_path_factory):
    """The root, what the run said, and its score table."""
    folder, said = tmp_path_factory.mktemp("chain"), []
    weights = small_network().state_dict()
    save_checkpoint(Checkpoint(SMALL.to_dict(), weights, method=METHOD), folder / "init.pt")
    options = PipelineOptions(
        method=METHOD,
        init=folder / "init.pt",
        training={"epochs": 1, "batch_pairs": 1, "accumulate": 1, "clips_per_track": 1},
    )
    root = DatasetRoot(folder / "root")
    table = run_pipeline(root, release, options, run=RUN, say=said.append)
    return root, said, table


def test_nothing_is_proposed_for_it(chain):
    root, said, table = chain
    titles = [line for line in said if line.startswith("[")]
    assert [title.split(": ")[0].split("] ")[1] for title in titles] == [
        "ingest", "frames", "pairs", "train", "predict", "evaluate", "report",
    ]  # fmt: skip
    assert not (root.path / "manifests" / "proposals").exists()
    assert "LM-EEC, with memory" in table and "oracle" not in table


def test_what_a_run_leaves(chain):
    root, *_ = chain
    for direction in Direction:
        run = RunFolder.of(root, f"{direction}-{METHOD}")
        for path in (run.checkpoint_best, run.predictions, run.predictions_json, run.log):
            assert path.is_file(), path


def test_the_page_does_not_speak_of_proposals(chain):
    root, *_ = chain
    page = (root.runs / "report.html").read_text()
    read = re.sub(r"(?s)<(style|script)\b.*?</\1>", "", page)
    assert "LM-EEC, with memory" in read and "Causes of failure" in read
    assert "proposal" not in read.lower()


def test_status_and_compare_know_it(chain, tmp_path):
    root, *_ = chain
    status = CliRunner().invoke(main, ["status", str(root.path)])
    assert status.exit_code == 0 and "train" in status.output
    run = RunFolder.of(root, f"ego2exo-{METHOD}").path
    compared = CliRunner().invoke(main, ["compare", str(run), str(run)])
    assert compared.exit_code == 0, compared.output
