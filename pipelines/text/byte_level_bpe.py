"""Training of a new tokenizer, for models that are trained from scratch."""

from collections.abc import Iterable

from pipelines.errors import UserError

_SPECIAL = ["<unk>", "<s>", "</s>"]  # 0, 1, 2 as in LLaMA


def train_bpe(texts: Iterable[str], num_tokens: int) -> bytes:
    """Train a byte-level BPE, as `tokenizer.json`: every text has ids, so `<unk>` is never needed.

    Args:
        texts: Texts to learn merges from.
        num_tokens: Maximum number of tokens, 256 bytes and `<unk>`, `<s>`, `</s>` included.

    Raises:
        UserError: If the maximum is smaller than these.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if num_tokens < 256 + len(_SPECIAL):
        raise UserError(f"--train-bpe {num_tokens}: a byte-level vocabulary has at least {256 + len(_SPECIAL)}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens,
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str()).encode()
