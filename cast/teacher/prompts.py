"""The detector's text prompt, and which of its tokens stand for which class.

All classes go into one prompt, "person . rider . car .". A detection's class follows from the tokens it
responds to (token span → class index); decoded phrases are never compared with class names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor
from transformers import BertTokenizer, PreTrainedTokenizerBase

from cast.errors import CastError

# Ids that transformers' Grounding DINO hard-codes to split a prompt into phrases; those of bert-base-uncased.
HARD_CODED_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
DELIMITERS = (".", "?")
FIRST_WORD_ID = max(HARD_CODED_IDS.values()) + 1


@dataclass(frozen=True)
class Prompt:
    """One prompt for every image.

    Attributes:
        text: "person . traffic light ."
        input_ids: int64 (L,).
        class_tokens: bool (C, L), the tokens of each class's phrase.
    """

    text: str
    input_ids: Tensor
    class_tokens: Tensor


def phrase_of(class_name: str) -> str:
    """The class name as a phrase of the prompt: lower case, one space between words, no phrase delimiters.

    Raises:
        CastError: nothing is left of the name.
    """
    words = class_name.lower()
    for delimiter in DELIMITERS:
        words = words.replace(delimiter, " ")
    phrase = " ".join(words.replace("_", " ").split())
    if not phrase:
        raise CastError(
            f"class name '{class_name}': holds no word to prompt the detector with; rename the class"
        )
    return phrase


def build_prompt(class_names: Sequence[str], tokenizer: PreTrainedTokenizerBase, positions: int) -> Prompt:
    """Tokenise the prompt of all classes and find each class's tokens.

    Args:
        class_names: C names; names of several words give several tokens.
        tokenizer: a BERT tokenizer, of a hub checkpoint or from `build_tokenizer`.
        positions: the most tokens that its text encoder reads (`max_position_embeddings`).

    Raises:
        CastError: no class, a nameless class, one of unknown words, or a prompt that is too long.
    """
    if not class_names:
        raise CastError("the dataset names no classes; the detector needs at least one to look for")
    phrases = [phrase_of(name) for name in class_names]
    pieces = [tokenizer(phrase, add_special_tokens=False)["input_ids"] for phrase in phrases]
    for name, piece in zip(class_names, pieces, strict=True):
        if not piece or tokenizer.unk_token_id in piece:
            raise CastError(
                f"class name '{name}': the detector's tokenizer does not know it; rename the class in words "
                "of the tokenizer's language"
            )
    delimiter = tokenizer.convert_tokens_to_ids(".")
    input_ids = [tokenizer.cls_token_id]
    spans = []
    for piece in pieces:
        spans.append((len(input_ids), len(input_ids) + len(piece)))
        input_ids += [*piece, delimiter]
    input_ids.append(tokenizer.sep_token_id)
    if len(input_ids) > positions:
        longest = max(range(len(pieces)), key=lambda index: len(pieces[index]))
        raise CastError(
            f"the prompt of the {len(phrases)} classes takes {len(input_ids)} tokens and the detector reads "
            f"at most {positions}; shorten class names (longest: '{class_names[longest]}', "
            f"{len(pieces[longest])} tokens) or drop classes"
        )
    class_tokens = torch.zeros(len(phrases), len(input_ids), dtype=torch.bool)
    for index, (start, end) in enumerate(spans):
        class_tokens[index, start:end] = True
    text = " ".join(f"{phrase} ." for phrase in phrases)
    return Prompt(text, torch.tensor(input_ids), class_tokens)


def build_tokenizer(class_names: Sequence[str], vocab_size: int) -> BertTokenizer:
    """A BERT tokenizer whose vocabulary is the words of the class names: nothing to download.

    The ids that the model hard-codes are those of bert-base-uncased; words follow after them, in order of
    first appearance, and the ids between are unused.

    Args:
        class_names: names whose words are needed.
        vocab_size: rows of the text encoder's embedding (`text_config.vocab_size`).

    Raises:
        CastError: the vocabulary is too small for the words.
    """
    words: dict[str, None] = {}
    for name in class_names:
        normalised = BertNormalizer(lowercase=True).normalize_str(phrase_of(name))
        words |= dict.fromkeys(word for word, _ in BertPreTokenizer().pre_tokenize_str(normalised))
    needed = FIRST_WORD_ID + len(words)
    if needed > vocab_size:
        raise CastError(
            f"detector.architecture.text_config.vocab_size: {vocab_size} is too small for the "
            f"{len(words)} words of the class names; set it to at least {needed}"
        )
    names = [f"[unused{index}]" for index in range(vocab_size)]
    for token, index in HARD_CODED_IDS.items():
        names[index] = token
    for index, word in enumerate(words):
        names[FIRST_WORD_ID + index] = word
    return BertTokenizer(vocab={token: index for index, token in enumerate(names)})
