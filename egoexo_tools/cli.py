"""The `egoexo-tools` command: one Click group whose commands load when they are called.

Each command has a file, which parses, calls one function and prints. The table names the modules
as text: `--help` imports nothing heavy, and preparing data imports nothing of `omama`, to which
the commands `run` and `demo` belong.
"""

from egoexo_tools.commands import LazyGroup

_HERE = "egoexo_tools.commands"

COMMANDS = {
    "demo": (
        "omama.commands.demo",
        "Synthesize a release and run the whole pipeline on it; needs no weights, no network.",
    ),
    "run": ("omama.commands.run", "Run the whole pipeline, from a release to the score table."),
    "synthesize": (f"{_HERE}.synthesize", "Write a small synthetic release with real videos."),
    "doctor": (f"{_HERE}.doctor", "Check credentials, network, disk, versions, GPU and weights."),
    "download": (f"{_HERE}.download", "Download the annotations and videos of selected takes."),
    "select": (f"{_HERE}.select", "Choose takes and split them into train, val and test."),
    "ingest": (f"{_HERE}.ingest", "Read annotations into the takes and masks manifests."),
    "frames": (f"{_HERE}.frames", "Extract the annotated frames from the videos."),
    "pairs": (f"{_HERE}.pairs", "List pairs of a source mask and a destination frame."),
    "propose": (f"{_HERE}.propose", "Segment candidate masks in the destination frames."),
    "status": (f"{_HERE}.status", "Show the finished work of each stage and take."),
    "validate": (
        f"{_HERE}.validate",
        "Check the manifests against each other and against the files.",
    ),
    "stats": (f"{_HERE}.stats", "Count and measure a root's takes, objects, masks and pairs."),
    "view": (f"{_HERE}.view", "Write a video or page of a take's views with masks and proposals."),
    "export": (f"{_HERE}.export", "Write a root in another tool's format."),
    "import": (f"{_HERE}.import_", "Read pictures, datasets or predictions of other tools."),
    "ground-truth": (f"{_HERE}.ground_truth", "Write the official ground-truth file of a root."),
    "evaluate": (f"{_HERE}.evaluate", "Score predictions under a protocol."),
    "compare": (f"{_HERE}.compare", "Compare two runs, sample by sample."),
    "submit": (
        f"{_HERE}.submit",
        "Join the predictions of both directions into an EvalAI submission.",
    ),
    "report": (f"{_HERE}.report", "Write an HTML page of tables, curves and pictures about runs."),
}

main = LazyGroup(
    name="egoexo-tools",
    table=COMMANDS,
    help="Ego-Exo4D correspondence: from the download to scores and reports.\n\n"
    "Start with `egoexo-tools demo`.",
)

if __name__ == "__main__":  # python -m, torchrun -m
    main()
