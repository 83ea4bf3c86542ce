"""The `egoexo-tools` command: one Click group whose commands load when they are called.

A command lives in a file of its own and does three things: parse, call one function, print.
Nothing heavy is imported for `--help`. The table names modules as text, so that preparing data
never imports `omama`, whose commands `run` and `demo` are.
"""

from egoexo_tools.commands import LazyGroup

_HERE = "egoexo_tools.commands"

COMMANDS = {
    "demo": (
        "omama.commands.demo",
        "Synthesize a release and run everything on it, with no weights and no network.",
    ),
    "run": ("omama.commands.run", "All of it: from raw videos to the score table."),
    "synthesize": (
        f"{_HERE}.synthesize",
        "Write a small release in the shipped layout, with real videos.",
    ),
    "doctor": (
        f"{_HERE}.doctor",
        "Check credentials, network, disk, versions, GPU and weights.",
    ),
    "download": (
        f"{_HERE}.download",
        "Download what the selection needs from the Ego-Exo4D release.",
    ),
    "select": (f"{_HERE}.select", "Choose takes and split them into train, val and test."),
    "ingest": (f"{_HERE}.ingest", "Read annotations into the takes and masks manifests."),
    "frames": (f"{_HERE}.frames", "Cut the annotated frames out of the videos."),
    "pairs": (f"{_HERE}.pairs", "List the pairs of source mask and destination frame."),
    "propose": (f"{_HERE}.propose", "Segment candidate masks in the destination frames."),
    "status": (f"{_HERE}.status", "Show what is done, per stage and take."),
    "validate": (
        f"{_HERE}.validate",
        "Check every manifest against every other and against the files.",
    ),
    "stats": (f"{_HERE}.stats", "Count and measure what a root holds."),
    "view": (
        f"{_HERE}.view",
        "Play a take's two views side by side, with masks and proposals.",
    ),
    "export": (f"{_HERE}.export", "Write a root in another tool's format."),
    "import": (f"{_HERE}.import_", "Read other people's pictures or predictions."),
    "ground-truth": (f"{_HERE}.ground_truth", "Write the official ground-truth file of a root."),
    "evaluate": (f"{_HERE}.evaluate", "Score predictions under one of the protocols."),
    "compare": (f"{_HERE}.compare", "Compare two runs, sample by sample."),
    "submit": (
        f"{_HERE}.submit",
        "Join the predictions of both directions into an EvalAI submission.",
    ),
    "report": (
        f"{_HERE}.report",
        "Write one HTML page of tables, curves and pictures about some runs.",
    ),
}

main = LazyGroup(
    name="egoexo-tools",
    table=COMMANDS,
    help="Ego-Exo4D correspondence: data, scores and pages, from download to report.\n\n"
    "Start with `egoexo-tools demo`.",
)

if __name__ == "__main__":  # python -m, torchrun -m
    main()
