"""A batch as a readable table: the first row, token by token, with its targets (`--show-batch`).

It shows where the shift by one happens, which targets are not counted, and how texts are cut.
"""

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.datasets.labels import ENDINGS, LabelBatch
from minillm.datasets.masking import MASK
from minillm.datasets.pairs import PairBatch
from minillm.tokenizers.tokenizer import Tokenizer


def batch_table(batch: Batch | LabelBatch | PairBatch, tokenizer: Tokenizer) -> str:
    """Format the first row of a batch: one line per token, or for a LabelBatch its label and its text."""
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
        counted = "no" if target == IGNORE else "yes"
        lines += [f"{i:>8}  {token:>6}  {name(token):<20}  {target:>6}  {name(target):<20}  {counted}"]
    return "\n".join(lines)
