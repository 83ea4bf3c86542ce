"""Choose one candidate per pair with regard to the other objects and frames of its take.

In order: `candidates` keeps the best proposals of a matcher, `clips` arranges them by frame and
object, `links` and `overlaps` compare them, `decide` chooses, `apply` does all of this for a
dataset. `fitting` selects the parameters on val, `decision` stores them.
"""
