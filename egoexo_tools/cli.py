"""The `egoexo-tools` command: one Click group whose commands load when they are called.

Each command lives in `egoexo_tools/commands/<name>.py` and does three things: parse, call one
function, print. Nothing heavy is imported for `--help`.
"""

from egoexo_tools.commands import LazyGroup

COMMANDS = {
    "demo": "Synthesize a release and run everything on it, with no weights and no network.",
    "run": "All of it: from raw videos to the score table.",
    "synthesize": "Write a small release in the shipped layout, with real videos.",
    "doctor": "Check credentials, network, disk, versions, GPU and weights.",
    "download": "Download what the selection needs from the Ego-Exo4D release.",
    "select": "Choose takes and split them into train, val and test.",
    "ingest": "Read annotations into the takes and masks manifests.",
    "frames": "Cut the annotated frames out of the videos.",
    "pairs": "List the pairs of source mask and destination frame.",
    "propose": "Segment candidate masks in the destination frames.",
    "status": "Show what is done, per stage and take.",
    "validate": "Check every manifest against every other and against the files.",
    "stats": "Count and measure what a root holds.",
    "view": "Play a take's two views side by side, with masks and proposals.",
    "export": "Write a root in another tool's format.",
    "import": "Read other people's pictures or predictions.",
}

main = LazyGroup(
    name="egoexo-tools",
    package="egoexo_tools.commands",
    summaries=COMMANDS,
    help="Ego-Exo4D correspondence data: from download to Parquet manifests.\n\n"
    "Start with `egoexo-tools demo`.",
)

if __name__ == "__main__":  # python -m, torchrun -m
    main()
