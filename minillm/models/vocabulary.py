"""New rows of a vocabulary: the weights of a trained model for a tokenizer that has more tokens.

A new row is the mean of all old ones, so that a new token begins as likely as an average one: an embedding far from the
others could have any logit (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models"). Read
before: `tokenizers/extended.py`.
"""

import torch
from torch import Tensor, nn


def with_new_rows(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights, with as many rows as the tensors of `model` have where only the number of rows is too small.

    >>> model = nn.Embedding(3, 2)
    >>> with_new_rows({"weight": torch.tensor([[1.0, 2.0], [3.0, 6.0]])}, model)["weight"]
    tensor([[1., 2.],
            [3., 6.],
            [2., 4.]])
    """
    wanted = model.state_dict()
    return {name: _grown(tensor, wanted.get(name)) for name, tensor in weights.items()}


def _grown(tensor: Tensor, wanted: Tensor | None) -> Tensor:
    if wanted is None or wanted.shape[1:] != tensor.shape[1:] or len(wanted) <= len(tensor):
        return tensor
    mean = tensor.double().mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(len(wanted) - len(tensor), *tensor.shape[1:])])
