"""Pictures, pages and numbers for people."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.viewing.painting import overlay as overlay
    from egoexo_tools.viewing.painting import strip as strip
    from egoexo_tools.viewing.painting import tint as tint
    from egoexo_tools.viewing.painting import write_picture as write_picture
    from egoexo_tools.viewing.stats import StatsTable as StatsTable
    from egoexo_tools.viewing.stats import collect as collect
    from egoexo_tools.viewing.stats import stats_text as stats_text
    from egoexo_tools.viewing.view import TakeView as TakeView
    from egoexo_tools.viewing.view import open_take as open_take
    from egoexo_tools.viewing.view import write_view as write_view
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "painting": ("overlay", "strip", "tint", "write_picture"),
            "stats": ("StatsTable", "collect", "stats_text"),
            "view": ("TakeView", "open_take", "write_view"),
        },
    )
