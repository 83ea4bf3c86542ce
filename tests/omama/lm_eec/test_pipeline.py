"""LM-EEC in the whole chain, from videos to the page: `run`, `status`, `report`, `compare`."""

import re

import pytest
from click.testing import CliRunner
from lm_eec_networks import save_network, small_network

from egoexo_tools.cli import main
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.records import RunOptions
from egoexo_tools.runs import RunFolder
from egoexo_tools.synthetic import SyntheticOptions, synthesize
from egoexo_tools.vocab import Direction
from omama.lm_eec.weights import METHOD
from omama.pipeline import PipelineOptions, run_pipeline

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
    """The root, the lines that the run printed, and its score table."""
    folder, lines = tmp_path_factory.mktemp("chain"), []
    start = save_network(folder / "init.pt", small_network())
    options = PipelineOptions(
        method=METHOD,
        init=start,
        training={"epochs": 1, "batch_pairs": 1, "accumulate": 1, "clips_per_track": 1},
    )
    root = DatasetRoot(folder / "root")
    table = run_pipeline(root, release, options, run=RUN, say=lines.append)
    return root, lines, table


def test_the_chain_makes_no_proposals(chain):
    root, lines, table = chain
    titles = [line for line in lines if line.startswith("[")]
    assert [title.split(": ")[0].split("] ")[1] for title in titles] == [
        "ingest", "frames", "pairs", "train", "predict", "evaluate", "report",
    ]  # fmt: skip
    assert not (root.path / "manifests" / "proposals").exists()
    assert "LM-EEC, with memory" in table and "oracle" not in table


def test_a_run_has_checkpoints_predictions_and_a_log(chain):
    root, *_ = chain
    for direction in Direction:
        run = RunFolder.of(root, f"{direction}-{METHOD}")
        for path in (run.checkpoint_best, run.predictions, run.predictions_json, run.log):
            assert path.is_file(), path


def test_the_page_does_not_mention_proposals(chain):
    root, *_ = chain
    page = (root.runs / "report.html").read_text()
    text = re.sub(r"(?s)<(style|script)\b.*?</\1>", "", page)
    assert "LM-EEC, with memory" in text and "Causes of failure" in text
    assert "proposal" not in text.lower()


def test_status_and_compare_accept_it(chain, tmp_path):
    root, *_ = chain
    status = CliRunner().invoke(main, ["status", str(root.path)])
    assert status.exit_code == 0 and "train" in status.output
    run = RunFolder.of(root, f"ego2exo-{METHOD}").path
    comparison = CliRunner().invoke(main, ["compare", str(run), str(run)])
    assert comparison.exit_code == 0, comparison.output
