"""The `omama` command: one Click group whose commands load when they are called."""

from egoexo_tools.commands import LazyGroup

COMMANDS = {
    "features": "Cache a frozen backbone's features for every frame of a root.",
    "train": "Train O-MaMa on a root's pairs.",
    "predict": "Predict destination masks for a split, or for one pair of pictures.",
    "ground-truth": "Write the official ground-truth file of a root.",
    "evaluate": "Score predictions under one of the protocols.",
    "submit": "Join the predictions of both directions into an EvalAI submission.",
    "report": "Write one HTML page of tables, curves and pictures about some runs.",
    "compare": "Compare two runs, sample by sample.",
}

main = LazyGroup(
    name="omama",
    package="omama.commands",
    summaries=COMMANDS,
    help="Object correspondence on a dataset root: train, predict, evaluate, report.",
)

if __name__ == "__main__":  # python -m, torchrun -m
    main()
