"""The notebook runs from its first to its last cell, on a corpus of a few mixtures."""

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = "docs/notebook.ipynb"
TINY = "MIXTURES, TEST_MIXTURES, EPOCHS, WORK = 4, 1, 1, {!r}"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cell, kind):
    return [output["data"][kind] for output in cell.outputs if kind in output.get("data", {})]


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute of one core; more on a busy machine
def test_the_notebook_runs_and_ends_in_sounds(repository, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(repository / NOTEBOOK, as_version=4)
    cells = code_cells(notebook)
    assert cells[0].source.startswith("MIXTURES = ")
    cells[0].source = TINY.format(str(tmp_path / "work"))
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(repository / "docs")}}).execute()
    assert any("Test: 1 mixtures" in output.get("text", "") for cell in cells for output in cell.outputs)
    assert sum("<audio" in html for cell in cells for html in outputs(cell, "text/html")) == 3 + 2
    assert sum(len(outputs(cell, "image/png")) for cell in cells) == 2


def test_the_notebook_is_kept_without_outputs(repository):
    cells = code_cells(nbformat.read(repository / NOTEBOOK, as_version=4))
    assert len(cells) > 5
    assert not any(cell.outputs or cell.execution_count for cell in cells)
