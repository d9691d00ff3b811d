"""A real Llama that must say what it is told: its blocks add nothing, its head is a table."""

import math
from itertools import pairwise

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.zoo.tiny import tokenizer

VOCABULARY = 260


def model(follows="", *, advantage=50.0):
    """After each character of `follows` comes the next one, its logit `advantage` above others.

    What stands nowhere in it, and its last character, are followed by any byte as likely.
    """
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=VOCABULARY, intermediate_size=4, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False,
        bos_token_id=257, eos_token_id=258, pad_token_id=256, rms_norm_eps=0.0,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval().requires_grad_(False)
    weights = made.state_dict()
    for name, tensor in weights.items():
        tensor.fill_(1.0 if "norm" in name else 0.0)
    # of a vector that is 1 in one place, RMS normalisation makes sqrt(V)
    weights["model.embed_tokens.weight"].copy_(torch.eye(VOCABULARY))
    tokens = tokenizer()(follows)["input_ids"]
    for here, after in pairwise(tokens):
        weights["lm_head.weight"][after, here] = advantage / math.sqrt(VOCABULARY)
    return made
