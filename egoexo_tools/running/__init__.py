"""How units of work run, are resumed, are kept apart and are told of."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.running.executors import EXECUTORS as EXECUTORS
    from egoexo_tools.running.records import RunOptions as RunOptions
    from egoexo_tools.running.records import StageSummary as StageSummary
    from egoexo_tools.running.records import Unit as Unit
    from egoexo_tools.running.records import UnitResult as UnitResult
    from egoexo_tools.running.stage import run_stage as run_stage
    from egoexo_tools.running.status import status_text as status_text
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "executors": ("EXECUTORS",),
            "records": ("RunOptions", "StageSummary", "Unit", "UnitResult"),
            "stage": ("run_stage",),
            "status": ("status_text",),
        },
    )
