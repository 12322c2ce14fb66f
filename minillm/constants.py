"""Two ids that are not tokens: EMPTY marks an unused place of the input, IGNORE a target that the loss leaves out."""

EMPTY = -1  # no token here: an id in a ragged batch, or the position of an unused slot of a cache
IGNORE = -100  # a target that is not counted; the default ignore_index of torch's cross_entropy
