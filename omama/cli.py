"""The `omama` command: one Click group whose commands load when they are called."""

from egoexo_tools.cli import COMMANDS as DATA_COMMANDS
from egoexo_tools.commands import LazyGroup

SCORING = ("ground-truth", "evaluate", "submit", "report", "compare")
"""Commands of `egoexo-tools` that `omama` offers too, under the same names."""

COMMANDS = {
    "features": (
        "omama.commands.features",
        "Cache a frozen backbone's features of the frames that pairs use.",
    ),
    "train": ("omama.commands.train", "Train a method on a root's pairs."),
    "predict": (
        "omama.commands.predict",
        "Predict destination masks for a split, or for one pair of pictures.",
    ),
    "fit-decision": (
        "omama.commands.fit_decision",
        "Fit on val how a prediction chooses among candidates.",
    ),
    **{name: DATA_COMMANDS[name] for name in SCORING},
}

main = LazyGroup(
    name="omama",
    table=COMMANDS,
    help="Object correspondence on a dataset root: train, predict, evaluate, report.",
)

if __name__ == "__main__":  # python -m, torchrun -m
    main()
