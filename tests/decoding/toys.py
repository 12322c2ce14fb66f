"""Small language models whose probabilities are computed by hand, and enumeration of all their texts."""

import copy

import torch
from torch import nn

# tokens of the prompt, maximum of new tokens -> new tokens, and the reason for the end
AT_THE_END_OF_A_CONTEXT_OF_12 = [
    (5, 6, 6, "length"),
    (5, 7, 7, "length"),
    (5, 8, 7, "context"),
    (11, 3, 1, "context"),
    (12, 3, 0, "context"),
    (12, 0, 0, "length"),
]


class Reading:
    """State: the tokens read by each row and one vector a row."""

    rollback = "copy"

    def __init__(self, batch_size, width, dtype, context_length=None):
        self.context_length = context_length
        self.lengths = torch.zeros(batch_size, dtype=torch.long)
        self.memory = torch.zeros(batch_size, width, dtype=dtype)

    def reorder(self, rows, since=0):
        self.lengths, self.memory = self.lengths[rows], self.memory[rows]

    def truncate(self, lengths):
        raise ValueError("a toy remembers no way back")

    def copy(self):
        return copy.copy(self)

    def nbytes(self):
        return self.memory.nbytes


class Markov:
    """The next token depends on the last one: `table` (V, V) of logits. Not an nn.Module."""

    context_length = None
    start_options = frozenset()
    head = None

    def __init__(self, table):
        self.table, self.vocab_size = table, len(table)

    def start(self, batch_size):
        return Reading(batch_size, 1, torch.long)

    def __call__(self, tokens, state=None):
        kept = state or self.start(len(tokens))
        logits = []
        for column in tokens.T:
            kept.memory = torch.where(column >= 0, column, kept.memory[:, 0])[:, None]
            kept.lengths = kept.lengths + (column >= 0)
            logits.append(self.table[kept.memory[:, 0]])
        return torch.stack(logits, 1), state


class Remembers(nn.Module):
    """h = tanh(h W + embed(token)): the next token depends on all tokens in order. Dropout reveals training mode."""

    start_options = frozenset()

    def __init__(self, vocab_size, context_length=None, seed=0):
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        g = torch.Generator().manual_seed(seed)
        self.embed = nn.Parameter(torch.randn(vocab_size, 5, generator=g, dtype=torch.float64))
        self.turn = nn.Parameter(torch.randn(5, 5, generator=g, dtype=torch.float64))
        self.head = nn.Parameter(torch.randn(5, vocab_size, generator=g, dtype=torch.float64) * 2)
        self.dropout = nn.Dropout(0.5)
        self.calls = []  # shapes of the tokens of all calls

    def start(self, batch_size):
        return Reading(batch_size, 5, torch.float64, self.context_length)

    def forward(self, tokens, state=None):
        self.calls.append(tuple(tokens.shape))
        kept = state or self.start(len(tokens))
        logits = []
        for column in tokens.T:
            read = (column >= 0)[:, None]
            h = torch.tanh((kept.memory[:, None] @ self.turn)[:, 0] + self.embed[column.clamp(min=0)])
            kept.memory = torch.where(read, h, kept.memory)
            kept.lengths = kept.lengths + read[:, 0]
            assert self.context_length is None or kept.lengths.max() <= self.context_length, "read beyond the context"
            logits.append((self.dropout(kept.memory)[:, None] @ self.head)[:, 0])
        return torch.stack(logits, 1), state


def distribution(model, text, sampler):
    """The probability of each next token of a text after a sampler's transforms, as a list."""
    logits = model(torch.tensor([text]))[0][:, -1]
    return sampler.shape(logits, torch.tensor([text])).double().softmax(-1)[0].tolist()


def possible_texts(model, prompt, sampler, n, end_id=None):
    """Every text that plain decoding may write, of n tokens or fewer with END, and its probability."""
    texts = {(): 1.0}
    for _ in range(n):
        grown = {}
        for text, probability in texts.items():
            if text[-1:] == (end_id,):
                grown[text] = probability
                continue
            for token, p in enumerate(distribution(model, [*prompt, *text], sampler)):
                if p:
                    grown[*text, token] = probability * p
        texts = grown
    return texts
