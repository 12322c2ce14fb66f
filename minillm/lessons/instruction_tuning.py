"""Instruction tuning: train a language model on conversations, with the loss on the answers only.

    <user> say cat <assistant> cat <turn>        the tokens of a conversation
     -      -   -   -          1   1             1: its token is learned, predicted from all tokens before it

A base model continues any text, so it may answer a question by another question. Tuning shows it conversations: special
tokens say who speaks, and the loss counts the answers, with the token <turn> that ends each. The mask is known from the
rendering; a search for marks in the tokens could be fooled by a user who writes <assistant>. If <turn> is not
counted, or is counted to the next message, the model never learns to stop.

Paper: Ouyang et al. 2022, "Training language models to follow instructions with human feedback".
Read before: cross_entropy, training_loop, generation.
Then read: minillm/tokenizers/role_template.py, minillm/datasets/conversations.py, minillm/tasks/sft.py
Try: python train.py --config chat-tiny --init-from runs/worlds-base

Change it:
    - learned += [False] + [role == "assistant"] * len(words)
    + learned += [False] + [role == "assistant" and word != "<turn>" for word in words]
Shown: say cat -> cat cat cat cat cat cat cat cat
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

ANIMALS = ["cat", "dog", "hen", "owl"]
WORDS = ["<user>", "<assistant>", "<turn>", "say", "twice", *ANIMALS]
IGNORE = -100  # a target that is not counted


def render(messages: list[tuple[str, str]]) -> tuple[list[int], list[bool]]:
    """The tokens of (role, text) messages, and for each whether it is learned."""
    tokens, learned = [], []
    for role, text in messages:
        words = text.split() + ["<turn>"] * (role == "assistant")
        tokens += [WORDS.index(word) for word in [f"<{role}>", *words]]
        learned += [False] + [role == "assistant"] * len(words)
    return tokens, learned


def targets_of(tokens: list[int], learned: list[bool]) -> list[int]:
    """The target of each token but the last: the next token if it is learned, else IGNORE."""
    return [token if counts else IGNORE for token, counts in zip(tokens[1:], learned[1:], strict=True)]


class Model(nn.Module):
    """A small recurrent language model: tokens (T) -> logits (T, V)."""

    def __init__(self):
        super().__init__()
        self.embed, self.gru = nn.Embedding(len(WORDS), 16), nn.GRU(16, 32)
        self.head = nn.Linear(32, len(WORDS))

    def forward(self, tokens: list[int]) -> Tensor:
        return self.head(self.gru(self.embed(torch.tensor(tokens)))[0])


def answer(model: Model, question: str, most: int = 8) -> str:
    """The greedy answer to a question, up to <turn>."""
    tokens, _ = render([("user", question)])
    tokens.append(WORDS.index("<assistant>"))
    n = len(tokens)
    while len(tokens) < n + most and WORDS[tokens[-1]] != "<turn>":
        tokens.append(int(model(tokens)[-1].argmax()))
    return " ".join(WORDS[token] for token in tokens[n:] if WORDS[token] != "<turn>")


def main() -> None:
    """Show the mask of a conversation; then tune a model from random weights until it answers and stops."""
    conversation = [("user", "say cat"), ("assistant", "cat"), ("user", "twice dog"), ("assistant", "dog dog")]
    tokens, learned = render(conversation)
    shown = zip(tokens, learned, strict=True)
    print(" ".join(WORDS[token].upper() if counts else WORDS[token] for token, counts in shown))
    print(f"learned, in capitals: {sum(learned)} of {len(tokens)} tokens")
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(120):
        animal = ANIMALS[step % 4]
        turns = [[("user", f"say {animal}"), ("assistant", animal)]]
        turns += [[("user", f"twice {animal}"), ("assistant", f"{animal} {animal}")]]
        losses = [cross_entropy(model(t[:-1]), torch.tensor(targets_of(t, m))) for t, m in map(render, turns)]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    print(f"loss of the answers after 120 steps: {torch.stack(losses).mean().item():.2f}")
    for question in ("say cat", "twice owl"):
        print(f"{question} -> {answer(model, question)}")


if __name__ == "__main__":
    main()
