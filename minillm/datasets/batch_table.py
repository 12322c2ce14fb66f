"""A batch for people: the first row, token by token, what is read, what should follow, and whether it counts.

Whoever has seen one batch knows where the shift by one happened, which targets are not counted and how texts were cut.
"""

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.datasets.labels import ENDINGS, LabelBatch
from minillm.datasets.masking import MASK
from minillm.datasets.pairs import PairBatch
from minillm.tokenizers.tokenizer import Tokenizer


def batch_table(batch: Batch | LabelBatch | PairBatch, tokenizer: Tokenizer) -> str:
    """The first row of a batch: one line a token, or a label and its text."""
    if isinstance(batch, LabelBatch):
        return f"{ENDINGS[batch.labels[0]]}: {tokenizer.decode(batch.tokens[0][batch.tokens[0] >= 0].tolist())}"
    special = {i: name for name, i in tokenizer.special_tokens.items()} | {tokenizer.vocab_size: MASK}

    def name(token: int) -> str:
        return "" if token < 0 else special.get(token) or repr(tokenizer.decode([token]))

    lines = []
    if isinstance(batch, PairBatch):
        lines += ["source  " + " ".join(name(token) for token in batch.source[0].tolist() if token >= 0), ""]
    lines += [f"{'position':>8}  {'token':>6}  {'':<20}  {'target':>6}  {'':<20}  counted"]
    for i, (token, target) in enumerate(zip(batch.tokens[0].tolist(), batch.targets[0].tolist(), strict=True)):
        lines += [
            f"{i:>8}  {token:>6}  {name(token):<20}  {target:>6}  {name(target):<20}  {'yes' if target != IGNORE else 'no'}"
        ]
    return "\n".join(lines)
