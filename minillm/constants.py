"""Two ids that mean no token: EMPTY among the tokens that a model reads, IGNORE among the targets that a loss counts."""

EMPTY = -1  # no token stands here: an id in a ragged batch, or a position in an unused slot of a cache
IGNORE = -100  # a target that is not counted, as in torch's cross_entropy
