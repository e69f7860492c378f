"""The language model: embedding, blocks, tied softmax.

Legend: B lanes · T tokens · D embed_dim · V vocab_size · L blocks.

| tensor | at initialisation |
|---|---|
| embedding, Linear weights | N(0, 0.1 / √D) |
| embedding of n-grams and of what is recalled | 0 |
| gain of what is recalled | 1 |
| … of `residual` blocks and the residual lstm | embedding N(0, 0.1), Linear N(0, 1 / √D) |
| … of the transformer | N(0, 0.02), Linear into the residual stream divided by √(2L) |
| Linear and softmax biases, tombstones | 0 |
| LayerNorm gain, bias | 1, 0 |
| LSTM weights and biases | U(-1/√D, 1/√D), then `forget_bias` on the forget gate |
| query and key gates, seed of an over-parameterised value gate | 0, so that σ gives 0.5 |
| … of a head that `reads_next`, and its query | 4, so that σ gives 0.98; the identity |
| plain value gate | 0.5; 0 in `residual` blocks |
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sharnn.config import ModelConfig
from sharnn.errors import ConfigError
from sharnn.model.attention import LayerNorm
from sharnn.model.block import Block, LstmBlock, ShaRnnBlock, TransformerBlock
from sharnn.model.ngrams import NgramEmbedding
from sharnn.model.recall import Recall
from sharnn.model.softmax import SplitSoftmax, TiedSoftmax
from sharnn.model.state import NO_TOKEN, RecurrentState
from sharnn.ops import FAST, Ops


class LanguageModel(nn.Module):
    """A SHA-RNN, or one of the baselines with the same interface.

    The state is an argument and a result: `logits, state = model(tokens, state)`. One call over a text
    equals any sequence of calls over its parts (the recurrence law), for every reach except `segment`.

    Attributes:
        recompute: Save only the inputs of each block, and recompute the rest in the backward pass.
        window: Rows that a position reaches; `set_window` changes it.
    """

    def __init__(self, config: ModelConfig, ops: Ops = FAST) -> None:
        super().__init__()
        self.config = config
        self.ops = ops
        self.recompute = False
        self.window = config.window
        self.embedding = nn.Embedding(config.vocab_size, config.embed_dim)
        self.ngrams: NgramEmbedding | None = None
        if config.longest_ngram:
            self.ngrams = NgramEmbedding(config.embed_dim, config.longest_ngram, config.ngram_rows)
        self.recall: Recall | None = None
        if config.recall_orders:
            self.recall = Recall(
                config.vocab_size, config.embed_dim, config.recall_orders, config.recall_slots
            )
        self.blocks = nn.ModuleList(
            _make_block(config, index) for index in range(config.num_layers)
        )
        # The paper has no final norm, since its skips carry normalised values. An identity path is not
        # normalised before it reaches the softmax.
        has_identity_path = config.residual or config.architecture == "transformer"
        self.final_norm = LayerNorm(config.embed_dim) if has_identity_path else nn.Identity()
        self.softmax: TiedSoftmax | SplitSoftmax
        if config.softmax_cutoffs:
            self.softmax = SplitSoftmax(config.vocab_size, config.embed_dim, config.softmax_cutoffs)
        else:
            self.softmax = TiedSoftmax(config.vocab_size)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        config = self.config
        transformer = config.architecture == "transformer"
        embedding_std = linear_std = 0.1 / math.sqrt(config.embed_dim)  # the original's
        if config.residual:  # measured to be better there (EXPERIMENTS.md)
            embedding_std, linear_std = 0.1, 1 / math.sqrt(config.embed_dim)
        elif transformer:
            embedding_std = linear_std = 0.02
        # Only this embedding: the tables of n-grams and of recall stay 0, and so have no effect at first.
        self.embedding.weight.normal_(0, embedding_std)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, linear_std)
                module.bias.zero_()
            if isinstance(module, nn.LSTM):
                # PyTorch's LSTM adds two biases, so one of them gets the offset of the forget gate.
                bias_4D = module.bias_ih_l0
                assert isinstance(bias_4D, Tensor)
                bias_4D[config.embed_dim : 2 * config.embed_dim] += config.forget_bias
        # After the loop above, which would overwrite the query's identity.
        for block in self.blocks:
            if config.reads_next and isinstance(block, ShaRnnBlock) and block.attention is not None:
                block.attention.match_likeness()
        if transformer:  # 2L such layers add to the residual stream; the sum keeps its scale
            for block in self.blocks:
                assert isinstance(block, TransformerBlock)
                for into_residual in (block.attention_out, block.feed_forward_out):
                    into_residual.weight.div_(math.sqrt(2 * config.num_layers))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.embedding.weight.device

    def initial_state(self, num_lanes: int, recall_slots: int | None = None) -> RecurrentState:
        """Return the initial state of new lanes.

        Args:
            num_lanes: B.
            recall_slots: Slots of each recall table; the config's when not given.
        """
        weight = self.embedding.weight
        return RecurrentState(
            tuple(
                block.initial_state(num_lanes, weight.device, weight.dtype)
                for block in self.typed_blocks
            ),
            self._no_tokens(num_lanes),
            None if self.recall is None else self.recall.no_text(num_lanes, recall_slots),
        )

    def _no_tokens(self, num_lanes: int) -> Tensor | None:
        """Return `recent` before the beginning of a text, `[B, N]`; None if the model needs no tokens."""
        if self.looks_back == 0:
            return None
        return torch.full((num_lanes, self.looks_back), NO_TOKEN, device=self.device)

    @property
    def looks_back(self) -> int:
        """N, the number of tokens before a segment that n-grams and recall need."""
        # An embedded n-gram ends with the current token, so it needs one token fewer. Recall also records
        # that the segment's first token followed the n-gram before it, which needs the whole n-gram.
        ngrams = 0 if self.ngrams is None else self.ngrams.longest - 1
        return max(ngrams, 0 if self.recall is None else self.recall.reach)

    @property
    def typed_blocks(self) -> list[Block]:
        """The blocks, for type checkers."""
        return list(self.blocks)  # type: ignore[arg-type]

    @property
    def has_memory(self) -> bool:
        """Whether any block has a memory of rows to attend to."""
        return self.config.architecture == "transformer" or bool(self.config.attention_layers)

    def set_window(self, window: int) -> None:
        """Let every position reach `window` rows from now on; the config keeps the window of training.

        This is possible because memory rows have no positions, so no weight depends on their number.

        Args:
            window: 0 forgets the memory; a Transformer needs at least 1.

        Raises:
            ConfigError: The window is out of range, or the model has no memory.
        """
        least = 1 if self.config.architecture == "transformer" else 0
        if window < least:
            raise ConfigError(f"a window of {window} rows: it must be at least {least}")
        if not self.has_memory and window > 0:
            raise ConfigError(
                f"a window of {window} rows does nothing, this model has no attention memory: leave the "
                "window out"
            )
        self.window = window

    def set_recall_slots(self, num_slots: int) -> None:
        """Give the recall tables of new states `num_slots` slots; existing states keep their tables.

        Raises:
            ConfigError: It is not a power of two of at least 256, or the model has no recall.
        """
        self.config = dataclasses.replace(self.config, recall_slots=num_slots)
        if self.recall is not None:
            self.recall.num_slots = num_slots

    def hidden(
        self,
        tokens_BT: Tensor,
        state: RecurrentState | None = None,
        ops: Sequence[Ops] | None = None,
        window: int | None = None,
        consume: bool = False,
    ) -> tuple[Tensor, RecurrentState]:
        """Return the softmax's input, `[B, T, D]`, and the next state.

        Args:
            tokens_BT: Tokens, any integer dtype.
            state: The state before the segment; it is not altered, unless `consume` is set. None is the
                initial state.
            ops: The operations of each block; the model's when not given.
            window: Rows that a position reaches; the model's when not given.
            consume: Write recall's tables in place. For callers that never use `state` again: copying
                the tables would cost more than all other work on them.
        """
        if state is None:
            state = self.initial_state(tokens_BT.shape[0])
        h_BTD, recent, slots = self.embed(
            tokens_BT.long(), state.recent, state.slots, in_place=consume
        )
        h_BTD = self._drop(h_BTD, self.config.input_dropout)
        layers = []
        ops = ops or [self.ops] * len(self.blocks)
        window = self.window if window is None else window
        for block, layer_state, block_ops in zip(self.blocks, state.layers, ops, strict=True):
            if self.recompute and torch.is_grad_enabled():
                # Not reentrant: that form would not see the tensors inside `layer_state`.
                h_BTD, layer_state = checkpoint(
                    block, h_BTD, layer_state, block_ops, window, use_reentrant=False
                )
            else:
                h_BTD, layer_state = block(h_BTD, layer_state, block_ops, window)
            layers.append(layer_state)
        out_BTD = self._drop(self.final_norm(h_BTD), self.config.output_dropout)
        return out_BTD, RecurrentState(tuple(layers), recent, slots)

    def embed(
        self,
        tokens_BT: Tensor,
        recent_BN: Tensor | None,
        slots_BOS: Tensor | None,
        in_place: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the first block's input, `[B, T, D]`, and the next state's `recent` and `slots`.

        Args:
            tokens_BT: Tokens, int64.
            recent_BN: The tokens before them (`RecurrentState.recent`).
            slots_BOS: The recall tables (`RecurrentState.slots`).
            in_place: Update these tables instead of copies.
        """
        h_BTD = self.embedding(tokens_BT)
        if recent_BN is None:
            return h_BTD, None, slots_BOS
        # `recent` has the tokens that the longer of the two look-ups needs: each takes its part.
        text, before = torch.cat([recent_BN, tokens_BT], dim=1), recent_BN.shape[1]
        if self.ngrams is not None:
            h_BTD = h_BTD + self.ngrams(text[:, before - self.ngrams.longest + 1 :])
        if self.recall is not None:
            assert slots_BOS is not None
            recalled_BTD, slots_BOS = self.recall(
                text[:, before - self.recall.reach :], slots_BOS, self.ops, in_place
            )
            h_BTD = h_BTD + recalled_BTD
        return h_BTD, text[:, tokens_BT.shape[1] :], slots_BOS

    def forward(
        self, tokens_BT: Tensor, state: RecurrentState | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """Read a segment.

        Args:
            tokens_BT: Tokens, any integer dtype.
            state: The state before the segment; it is not altered. None is the initial state.

        Returns:
            Logits of each position's next token `[B, T, V]` (log-probabilities with a split softmax), and
            the state after the segment. Its memory carries no gradient; its hidden and cell states do,
            until `detach`.
        """
        out_BTD, state = self.hidden(tokens_BT, state)
        # The tied weight is an argument: as a parameter of the softmax, too, it would be saved twice.
        return self.softmax.logits(out_BTD, self.embedding.weight), state

    def nats(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        state: RecurrentState | None = None,
        consume: bool = False,
    ) -> tuple[Tensor, RecurrentState]:
        """Return `-log p(target)` of each position in nats, `[B, T]` in float32, and the next state.

        With `consume` the state must not be used again; see `hidden`.
        """
        out_BTD, state = self.hidden(tokens_BT, state, consume=consume)
        return self.softmax.nats(out_BTD, self.embedding.weight, targets_BT), state

    def fold(self) -> LanguageModel:
        """Return an equivalent copy with each value gate folded into a vector.

        The over-parameterised gate helps only in training. Folding saves 2D² + 2D weights in each head.
        """
        folded = copy.deepcopy(self)
        folded.config = dataclasses.replace(self.config, overparam_value_gate=False)
        for block in folded.blocks:
            if isinstance(block, ShaRnnBlock) and block.attention is not None:
                block.attention.value_gate = block.attention.value_gate.fold()
        return folded

    def num_parameters(self) -> int:
        """Number of weights; the tied embedding is counted once."""
        return sum(p.numel() for p in self.parameters())

    def state_bytes(self) -> int:
        """Return the size of one lane's state with a full memory, in bytes."""
        config, element = self.config, self.embedding.weight.element_size()
        slots = len(config.recall_orders) * config.recall_slots
        looked_up = 8 * (self.looks_back + slots)  # int64
        if config.architecture == "transformer":
            rows = 2 * config.num_layers * self.window  # keys and values
            return rows * config.embed_dim * element + looked_up
        # Hidden and cell state of every block, and the memories.
        rows = 2 * config.num_layers + len(config.attending_blocks) * self.window
        return rows * config.embed_dim * element + looked_up

    def _drop(self, x: Tensor, rate: float) -> Tensor:
        return self.ops.dropout(x, rate) if self.training else x


def _make_block(config: ModelConfig, index: int) -> Block:
    if config.architecture == "lstm":
        return LstmBlock(config)
    if config.architecture == "transformer":
        return TransformerBlock(config)
    return ShaRnnBlock(config, attends=index in config.attending_blocks)


def count_parameters(config: ModelConfig) -> int:
    """Return the number of weights of a model, without allocating it.

    For a SHA-RNN with D = embed_dim, F = boom_dim, A attention layers among L blocks:
    V·D + V for the embedding and the softmax bias; per block 8D² + 8D for the LSTM, F·D + F for Boom
    and 2D for each LayerNorm (3, or 2 with `residual`); per attention layer D² + D for the query, 2D
    for its norm, 4D for the norms of input and memory, 2D for the gates of query and key, and for the
    value gate 2D² + 3D (D once folded); 2D for the final LayerNorm of `residual`. The original has 2D
    more for every block, 4D for every block without attention and 4D for every head: weights that never
    get a gradient. N-grams up to N add R rows of D // (N - 1) weights for each of N - 1 orders; recall of
    O orders adds V·D + 2·O·(D + 1).
    """
    with torch.device("meta"):
        return LanguageModel(config).num_parameters()
