"""The frozen CLIP model: two towers, weights and tokenizer."""
