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
from minillm.layers.recurrent import GRU, LSTM, Elman, Recurrent
from minillm.models.decoder import Decoder
from minillm.models.rnn import RNN
from minillm.objectives.cross_entropy import cross_entropy, log_probabilities, refuse_strangers, target_logprobs
from minillm.objectives.next_token import next_token
from minillm.objectives.seq2seq import seq2seq
from minillm.speed.linear_cross_entropy import FastDecoder, FastRNN
from minillm.speed.next_token import fast_next_token, fast_seq2seq
from minillm.speed.recurrent import FastElman, FastGRU, FastLSTM
from minillm.speed.rms_norm import FastRMSNorm
from minillm.speed.signing import Twin

CROSS_ENTROPY = (cross_entropy, log_probabilities, target_logprobs, refuse_strangers)

TWINS: dict[Any, Twin] = {
    next_token: Twin(fast_next_token, (next_token, *CROSS_ENTROPY)),
    seq2seq: Twin(fast_seq2seq, (seq2seq, *CROSS_ENTROPY)),
    Elman: Twin(FastElman, (Recurrent.forward, Elman.step)),
    LSTM: Twin(FastLSTM, (Recurrent.forward, LSTM.step)),
    GRU: Twin(FastGRU, (Recurrent.forward, GRU.step)),
    RNN: Twin(FastRNN, (RNN.forward, RNN.hidden), {"head": nn.Linear}),
    RMSNorm: Twin(FastRMSNorm, (RMSNorm,)),
    Decoder: Twin(FastDecoder, (Decoder.forward, Decoder.hidden, Decoder.read), {"head": nn.Linear}),
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
