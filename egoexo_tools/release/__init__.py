"""What is known of a release before there is a root."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.release.leaks import find_leaks as find_leaks
    from egoexo_tools.release.plan import plan_ingest as plan_ingest
    from egoexo_tools.release.relations import index_takes as index_takes
    from egoexo_tools.release.relations import read_relations as read_relations
    from egoexo_tools.release.scenarios import resolve_scenarios as resolve_scenarios
    from egoexo_tools.release.select import Selection as Selection
    from egoexo_tools.release.select import Wanted as Wanted
    from egoexo_tools.release.survey import TakeFacts as TakeFacts
    from egoexo_tools.release.takes import ShippedTake as ShippedTake
    from egoexo_tools.release.takes import read_takes as read_takes
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "leaks": ("find_leaks",),
            "plan": ("plan_ingest",),
            "relations": ("index_takes", "read_relations"),
            "scenarios": ("resolve_scenarios",),
            "select": ("Selection", "Wanted"),
            "survey": ("TakeFacts",),
            "takes": ("ShippedTake", "read_takes"),
        },
    )
