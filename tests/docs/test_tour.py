"""docs/tour.ipynb runs from its first cell to its last, and shows what it says it shows."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parents[2] / "docs" / "tour.ipynb"
PICTURES = 3
"""Ego, exo and a failure."""


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return sum("image/png" in out.get("data", {}) for out in outputs)


def test_its_pictures_are_in_the_repository() -> None:
    assert pictures(nbformat.read(TOUR, as_version=4)) == PICTURES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Jupyter's, not ours
def test_it_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell["outputs"] = []
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert pictures(notebook) == PICTURES
    tables = [
        out["data"]["text/html"]
        for cell in notebook.cells
        for out in cell.get("outputs", [])
        if "text/html" in out.get("data", {})
    ]
    assert len(tables) == 4, "masks, the training log, the runs, the worst samples"
    assert all(word in tables[2] for word in ("best", "track", "k-NN"))
