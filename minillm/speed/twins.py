"""The registry of twins: plain class or function -> its fast twin and what is signed for it.

A class that is its own twin runs its own forward with low overhead (see `low_overhead`). Classes without an entry have
no twin: routers (training observes them with hooks), adapters, packed layers, and layers defined by users. To add a
twin, write a file that explains its trick and gain, enter it here, test in `tests/speed/` that it equals the plain
version, and run `python -m minillm.speed sign`.
"""

from typing import Any

from torch import nn

from minillm.layers import attention, positions
from minillm.layers.attention import Attention, attend
from minillm.layers.block import DoubleNormBlock, PostNormBlock, PreNormBlock
from minillm.layers.feedforward import MLP, GeGLU, SwiGLU, relu2
from minillm.layers.masks import visible
from minillm.layers.moe import ExpertMLPs, ExpertSwiGLUs, MoE, NoSharedExpert, StackedLinear
from minillm.layers.ngram_embedding import NgramEmbedding, NoNgramEmbedding, token_before
from minillm.layers.norm import LayerNorm, OffsetRMSNorm, RMSNorm
from minillm.layers.positions import LearnedPositions, NoPositions, Rotary, SinusoidalPositions, positions_of
from minillm.layers.recurrent import GRU, LSTM, Elman, Recurrent
from minillm.layers.value_embedding import NoValueEmbedding, ValueEmbedding
from minillm.models.decoder import Decoder
from minillm.models.decoder_parts import Scale
from minillm.models.encoder import Encoder
from minillm.models.encoder_decoder import EncoderDecoder, PostNormCrossBlock, PreNormCrossBlock
from minillm.models.heads import Classifier, MaskedHead, PooledHead
from minillm.models.rnn import RNN
from minillm.objectives.cross_entropy import cross_entropy, log_probabilities, refuse_strangers, target_logprobs
from minillm.objectives.next_token import next_token
from minillm.objectives.seq2seq import seq2seq
from minillm.speed.captured import Captured
from minillm.speed.experts import FastMoE, FastStackedLinear
from minillm.speed.joined_projections import JoinedAttention
from minillm.speed.linear_cross_entropy import FastDecoder, FastRNN
from minillm.speed.low_overhead import no_dropout
from minillm.speed.next_token import fast_next_token, fast_seq2seq
from minillm.speed.ngram_lookups import FastNgramEmbedding
from minillm.speed.recurrent import FastElman, FastGRU, FastLSTM
from minillm.speed.rms_norm import FastRMSNorm
from minillm.speed.rotary_turns import FastRotary
from minillm.speed.signing import Twin
from minillm.speed.squared_relu import squared_relu
from minillm.speed.written_out_attention import attend_in_training

LEAN = {  # class with low overhead -> its methods that run in the accelerated tree
    Encoder: ("forward", "hidden"),
    EncoderDecoder: ("forward", "start", "encode", "show", "_read"),
    Classifier: ("forward",),
    MaskedHead: ("forward",),
    PooledHead: ("forward", "pool"),
    **dict.fromkeys(
        (PreNormBlock, PostNormBlock, DoubleNormBlock, PreNormCrossBlock, PostNormCrossBlock), ("forward",)
    ),
    **dict.fromkeys((nn.Identity, Scale, OffsetRMSNorm, GeGLU), ("forward",)),
    **dict.fromkeys((MLP, SwiGLU, ExpertMLPs, ExpertSwiGLUs, NoSharedExpert, LayerNorm), ("forward",)),
    **dict.fromkeys((LearnedPositions, SinusoidalPositions, NoPositions, NoNgramEmbedding), ("forward",)),
    **dict.fromkeys((ValueEmbedding, NoValueEmbedding, nn.Linear, nn.Embedding), ("forward",)),
    nn.ModuleList: (),
}
THREE = dict.fromkeys(("to_q", "to_k", "to_v"), nn.Linear)

CROSS_ENTROPY = (cross_entropy, log_probabilities, target_logprobs, refuse_strangers)

TWINS: dict[Any, Twin] = {
    **{kind: Twin(kind, tuple(getattr(kind, name) for name in names)) for kind, names in LEAN.items()},
    nn.Dropout: Twin(no_dropout, (nn.Dropout.forward,)),  # in a tree for inference only, or of rate 0
    Attention: Twin(JoinedAttention, (Attention, attention._split, attention.weigh, visible), THREE),
    attend: Twin(attend_in_training, (attend, attention._sight, attention._for_every_head, visible)),
    RMSNorm: Twin(FastRMSNorm, (RMSNorm,)),
    Rotary: Twin(FastRotary, (Rotary, positions._angles)),
    relu2: Twin(squared_relu, (relu2,)),
    MoE: Twin(FastMoE, (MoE,)),
    StackedLinear: Twin(FastStackedLinear, (StackedLinear,)),
    NgramEmbedding: Twin(FastNgramEmbedding, (NgramEmbedding, token_before)),
    next_token: Twin(fast_next_token, (next_token, *CROSS_ENTROPY)),
    seq2seq: Twin(fast_seq2seq, (seq2seq, *CROSS_ENTROPY)),
    Elman: Twin(FastElman, (Recurrent.forward, Elman.step)),
    LSTM: Twin(FastLSTM, (Recurrent.forward, LSTM.step)),
    GRU: Twin(FastGRU, (Recurrent.forward, GRU.step)),
    RNN: Twin(FastRNN, (RNN.forward, RNN.hidden), {"head": nn.Linear}),
    Decoder: Twin(FastDecoder, (Decoder.forward, Decoder.hidden, Decoder.read), {"head": nn.Linear}),
    Decoder.forward: Twin(Captured, (Decoder.forward, Decoder.hidden, positions_of)),
}
