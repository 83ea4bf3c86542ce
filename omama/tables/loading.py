"""Load the pairs of a split and direction, with their frames, masks and proposals."""

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.pair_inputs import check_inputs
from egoexo_tools.vocab import Direction, Split
from omama.dataset import Dataset, make_dataset
from omama.tables.mapped import TableRequest, make_tables, open_tables
from omama.tables.parquet import find_pair_positions, load_frames


def load_dataset(
    root: DatasetRoot, *, split: Split, direction: Direction, proposals: bool = True
) -> Dataset:
    """The pairs of a split and direction with their frames, masks and proposals.

    They are in memory-mapped files that all processes of a machine share; the first process to ask
    writes them. Without `proposals` none are read and none have to exist: for a method that draws
    its own masks. Raises DataError if a manifest is missing or older than what it is made from, or
    if the split has no pairs.
    """
    check_inputs(root, split, direction, proposals=proposals)
    dataset = open_tables(root, f"{split}.{direction}", proposals=proposals)
    if dataset is not None:
        return dataset
    request = _request(root, split, direction, proposals)
    return make_tables(request) or _read(request)  # a read-only root has no tables


def read_dataset(
    root: DatasetRoot, *, split: Split, direction: Direction, proposals: bool = True
) -> Dataset:
    """The same as `load_dataset`, but read from the Parquet files into this process's RAM."""
    check_inputs(root, split, direction, proposals=proposals)
    return _read(_request(root, split, direction, proposals))


def _request(
    root: DatasetRoot, split: Split, direction: Direction, proposals: bool
) -> TableRequest:
    unit = f"{split}.{direction}"
    rows = read_manifest(root, "pairs", units=[unit]).to_pandas()
    if rows.empty:
        raise DataError(
            f"{root.path} has no {split} pairs of {direction}; look at `egoexo-tools stats` for "
            "the takes of that split, then run `egoexo-tools pairs` again"
        )
    sources, dests = (
        {
            (str(take_uid), str(camera))
            for take_uid, camera in rows[["take_uid", f"{side}_camera"]]
            .drop_duplicates()
            .itertuples(index=False)
        }
        for side in ("source", "dest")
    )
    return TableRequest(
        root=root,
        unit=unit,
        rows=rows,
        cameras=tuple(sorted(sources | dests)),
        need_proposals=tuple(sorted(dests)) if proposals else (),
        proposals=proposals,
    )


def _read(request: TableRequest) -> Dataset:
    frames = load_frames(
        request.root,
        request.cameras,
        proposals=request.proposals,
        need_proposals=request.need_proposals,
    )
    return make_dataset(frames, request.rows, find_pair_positions(frames, request.rows))
