"""Files of the release from the bucket to the disk."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.download.files import DownloadOptions as DownloadOptions
    from egoexo_tools.download.files import DownloadSummary as DownloadSummary
    from egoexo_tools.download.files import download_files as download_files
    from egoexo_tools.download.files import prepare as prepare
    from egoexo_tools.download.plan import DownloadPlan as DownloadPlan
    from egoexo_tools.download.s3 import S3 as S3
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "files": ("DownloadOptions", "DownloadSummary", "download_files", "prepare"),
            "plan": ("DownloadPlan",),
            "s3": ("S3",),
        },
    )
