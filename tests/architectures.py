"""Small configurations of many architectures, and the groups that they should have."""

import transformers as tf

TEXT = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
HEADS = {"head_dim": 8}
BERT = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
SIGHT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
MOE = {"num_experts_per_tok": 2}
T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
GPT2 = {
    "vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32,
    "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip

DECODER = {"attention": 4, "mlp": 3, "other": 2}
"""Tensors a block of a Llama; its last block also has the last norm."""

# class, config, then the number of tensors of each group at two blocks and two roles
CASES = {
    "llama": (
        tf.LlamaForCausalLM,
        lambda: tf.LlamaConfig(**TEXT),
        {"embedding": 1, "head": 1, "1": DECODER, "2": {**DECODER, "other": 3}},
    ),
    "qwen3": (
        tf.Qwen3ForCausalLM,
        lambda: tf.Qwen3Config(**TEXT, **HEADS),
        {"embedding": 1, "head": 1, "1": {**DECODER, "other": 4}, "2": {**DECODER, "other": 5}},
    ),
    "gemma": (
        tf.GemmaForCausalLM,
        lambda: tf.GemmaConfig(**TEXT, **HEADS),
        {"embedding": 1, "1": DECODER, "2": {**DECODER, "other": 3}},
    ),
    "mistral": (
        tf.MistralForCausalLM,
        lambda: tf.MistralConfig(**TEXT),
        {"embedding": 1, "head": 1, "1": DECODER, "2": {**DECODER, "other": 3}},
    ),
    "gpt2": (
        tf.GPT2LMHeadModel,
        lambda: tf.GPT2Config(**GPT2),
        {
            "embedding": 2,
            "1": {"attention": 4, "mlp": 4, "other": 4},
            "2": {"attention": 4, "mlp": 4, "other": 6},
        },
    ),
    "bert": (
        tf.BertForMaskedLM,
        lambda: tf.BertConfig(**BERT),
        {
            "embedding": 5,
            "head": 5,
            "1": {"attention": 8, "mlp": 4, "other": 4},
            "2": {"attention": 8, "mlp": 4, "other": 4},
        },
    ),
    "bert that classifies": (
        tf.BertForSequenceClassification,
        lambda: tf.BertConfig(**BERT),
        {
            "embedding": 5,
            "head": 2,
            "1": {"attention": 8, "mlp": 4, "other": 4},
            "2": {"attention": 8, "mlp": 4, "other": 6},
        },
    ),
    "vit": (
        tf.ViTForImageClassification,
        lambda: tf.ViTConfig(**SIGHT),
        {
            "embedding": 4,
            "head": 2,
            "1": {"attention": 8, "mlp": 4, "other": 4},
            "2": {"attention": 8, "mlp": 4, "other": 6},
        },
    ),
    "t5": (
        tf.T5ForConditionalGeneration,
        lambda: tf.T5Config(**T5),
        {
            "embedding": 1,
            "1": {"attention": 9, "mlp": 4, "other": 5},  # the encoder, with its last norm
            "2": {"attention": 17, "mlp": 4, "other": 7},  # the decoder
        },
    ),
    "mixtral": (
        tf.MixtralForCausalLM,
        lambda: tf.MixtralConfig(num_local_experts=3, **MOE, **TEXT),
        {
            "embedding": 1,
            "head": 1,
            "1": {"attention": 4, "other": 12},
            "2": {"attention": 4, "other": 13},
        },
    ),
    "qwen2 moe": (
        tf.Qwen2MoeForCausalLM,
        lambda: tf.Qwen2MoeConfig(
            num_experts=3, moe_intermediate_size=8, shared_expert_intermediate_size=8,
            **MOE, **TEXT,
        ),
        {
            "embedding": 1,
            "head": 1,
            "1": {"attention": 7, "mlp": 3, "other": 13},
            "2": {"attention": 7, "mlp": 3, "other": 14},
        },
    ),
    "llava": (
        tf.LlavaForConditionalGeneration,
        lambda: tf.LlavaConfig(
            text_config=tf.LlamaConfig(**TEXT), vision_config=tf.CLIPVisionConfig(**SIGHT),
            image_token_index=60,
        ),
        {
            "embedding": 1,
            "head": 1,
            "projector": 4,
            "tower": 39,
            "1": DECODER,
            "2": {**DECODER, "other": 3},
        },
    ),
}  # fmt: skip
