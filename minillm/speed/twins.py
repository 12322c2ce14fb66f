"""The registry of twins: plain class or function -> its fast twin and what is signed for it.

A class whose twin is itself runs its own forward with low overhead (see `low_overhead`), and so do its parts. What is not in here, such
as routers, which training watches, adapters, packed layers and layers of the user's own, is left as it is. To add a twin, write a file
with its trick and its gain, enter it here, test that both are equal in `tests/speed/`, and run `python -m minillm.speed sign`.
"""

from typing import Any

from torch import nn

from minillm.layers.block import PostNormBlock, PreNormBlock
from minillm.layers.dropout import no_dropout
from minillm.layers.feedforward import MLP, SwiGLU
from minillm.layers.norm import LayerNorm, RMSNorm
from minillm.models.decoder import Decoder
from minillm.speed.rms_norm import FastRMSNorm
from minillm.speed.signing import Twin

TWINS: dict[Any, Twin] = {
    RMSNorm: Twin(FastRMSNorm, (RMSNorm,)),
    Decoder: Twin(Decoder, (Decoder.forward, Decoder.hidden, Decoder.read)),
    PreNormBlock: Twin(PreNormBlock, (PreNormBlock.forward,)),
    PostNormBlock: Twin(PostNormBlock, (PostNormBlock.forward,)),
    MLP: Twin(MLP, (MLP.forward,)),
    SwiGLU: Twin(SwiGLU, (SwiGLU.forward,)),
    LayerNorm: Twin(LayerNorm, (LayerNorm.forward,)),
    nn.Linear: Twin(nn.Linear, (nn.Linear.forward,)),
    nn.Embedding: Twin(nn.Embedding, (nn.Embedding.forward,)),
    nn.ModuleList: Twin(nn.ModuleList, ()),
    nn.Dropout: Twin(no_dropout, (nn.Dropout.forward,)),  # of a tree that only reads and writes
}
