"""docs/tour.ipynb runs from its first to its last cell and gives the outputs that it contains."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parents[2] / "docs" / "tour.ipynb"
PICTURES = 3
"""Ego view, exo view, and a failure."""


def outputs_of_type(notebook: nbformat.NotebookNode, mime: str) -> list[str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"][mime] for output in outputs if mime in output.get("data", {})]


def test_the_repository_contains_its_pictures() -> None:
    pictures = outputs_of_type(nbformat.read(TOUR, as_version=4), "image/png")
    assert len(pictures) == PICTURES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Jupyter's warnings, not ours
def test_it_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell["outputs"] = []
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert len(outputs_of_type(notebook, "image/png")) == PICTURES
    tables = outputs_of_type(notebook, "text/html")
    assert len(tables) == 4, "masks, the training log, the runs, the worst samples"
    assert all(word in tables[2] for word in ("best", "track", "k-NN"))
