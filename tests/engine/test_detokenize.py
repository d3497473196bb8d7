"""Streaming decoding against the library's own decoding of all ids at once."""

import functools
from itertools import chain

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from locum.engine.decode_stages import TextReplace, TextStrip
from locum.engine.detokenize import Detokenizer, plan_decoding

CORPUS = [
    "The quick brown fox doesn't jump; it's over. We've seen 1234 foxes, haven't we?",
    "Grüße, ça va, naïve café — “quotes” … ½ + π ≈ 1.57",
    "日本語のテキストと中文文本。 한국어 텍스트",
    "emoji 😀😃 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 a\u0308",
    "def f(x):\n\treturn   x  # ▁underline▁\n",
]
SPECIAL = [AddedToken("<s>", special=True), AddedToken("<|end|>", special=True)]
PLAIN = [AddedToken("<tool> call", special=False), AddedToken("émoji😀", special=False)]


def dress(tokenizer):
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(PLAIN)
    return tokenizer


def byte_level(decoder=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoder or decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return dress(tokenizer)


def byte_fallback(decoder):
    tokens = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "e",
        "t",
        "h",
        "▁t",
        "▁th",
        "▁▁",
        "日",
    ]
    merges = [("▁", "t"), ("▁t", "h"), ("▁", "▁")]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoder
    return dress(tokenizer)


def word_piece(cleanup=True):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=cleanup)
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return dress(tokenizer)


def suffixed(decoder):
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoder
    trainer = trainers.BpeTrainer(
        vocab_size=300, end_of_word_suffix="</w>", special_tokens=["<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return dress(tokenizer)


def llama(*last, spaces=True):
    first = [decoders.Replace("▁", " ")] if spaces else []
    return decoders.Sequence([*first, decoders.ByteFallback(), decoders.Fuse(), *last])


KINDS = {
    "byte-level": byte_level,
    "byte-level, nested": lambda: byte_level(
        decoders.Sequence([decoders.Sequence([decoders.ByteLevel()]), decoders.Replace("e t", "E-T")])
    ),
    "llama": lambda: byte_fallback(llama(decoders.Strip(" ", 1, 0))),
    "llama, two spaces": lambda: byte_fallback(llama(decoders.Strip(" ", 2, 0))),
    "gemma": lambda: byte_fallback(llama()),
    "replaced after fusing": lambda: byte_fallback(
        llama(decoders.Replace("▁▁", "="), decoders.Replace("▁t", "T"), spaces=False)
    ),
    "metaspace": lambda: byte_fallback(
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    ),
    "metaspace first": lambda: byte_fallback(
        decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), decoders.ByteFallback()])
    ),
    "metaspace never": lambda: byte_fallback(decoders.Metaspace(prepend_scheme="never")),
    "regex by token": lambda: byte_fallback(
        decoders.Sequence([decoders.Replace(Regex("[▁ ]+"), " "), decoders.Strip(" ", 1, 0), decoders.Fuse()])
    ),
    "word piece": word_piece,
    "word piece, as is": lambda: word_piece(cleanup=False),
    "suffix": lambda: suffixed(decoders.BPEDecoder()),
    "suffix, then stripped": lambda: suffixed(
        decoders.Sequence([decoders.BPEDecoder(), decoders.Fuse(), decoders.Strip("t", 1, 0)])
    ),
    "no decoder": lambda: suffixed(None),
}
WHOLE = {
    "regex on the text": lambda: byte_level(
        decoders.Sequence([decoders.ByteLevel(), decoders.Replace(Regex("e+"), "3")])
    ),
    "ctc": lambda: suffixed(decoders.CTC()),
}


@functools.cache
def tokenizer_of(kind):
    return {**KINDS, **WHOLE}[kind]()


def pieces_of(plan, ids):
    stream = Detokenizer(plan)
    return [*(stream.push(number) for number in ids), stream.flush()]


def ids_for(tokenizer):
    """Any ids, runs of similar ones (bytes lie together), unknown ones, and real texts."""
    known = tokenizer.get_vocab_size()
    anything = st.lists(st.integers(0, known + 2), max_size=40)
    runs = st.lists(st.integers(0, min(known, 262)), max_size=30)
    text = st.text(max_size=20) | st.sampled_from(CORPUS) | st.text("👩‍🏳️‍🌈é\u0301日 .'", max_size=12)
    encoded = text.map(lambda string: tokenizer.encode(string, add_special_tokens=False).ids)
    return st.lists(anything | runs | encoded, max_size=3).map(lambda parts: [*chain(*parts)])


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("kind", [*KINDS, *WHOLE])
def test_the_pieces_add_up_to_the_decoding_of_all_ids(kind, skip):
    tokenizer = tokenizer_of(kind)
    plan = plan_decoding(tokenizer, skip_special_tokens=skip)
    assert plan.streams == (kind in KINDS)

    @settings(max_examples=60, deadline=None)
    @given(ids_for(tokenizer))
    def check(ids):
        pieces = pieces_of(plan, ids)
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)

    check()


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=12))
def test_invalid_bytes_are_replaced_as_the_library_does(raw):
    """All byte sequences, legal or not, one byte a token: the most that a character can be broken up."""
    for kind in ("byte-level", "llama", "gemma"):
        tokenizer = tokenizer_of(kind)
        if kind == "byte-level":
            of_byte = {byte: char for char, byte in byte_chars().items()}
            ids = [tokenizer.token_to_id(of_byte[byte]) for byte in raw]
        else:
            ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in raw]
        pieces = pieces_of(plan_decoding(tokenizer), ids)
        assert "".join(pieces) == tokenizer.decode(ids)


def byte_chars():
    """The byte alphabet read off the library: its pre-tokenizer shows how each byte is written."""
    writer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    chars = {}
    for point in [*range(0x800), *range(0x800, 0xD800, 64), *range(0xE000, 0x110000, 997)]:
        written = writer.pre_tokenize_str(chr(point))[0][0]
        chars |= dict(zip(written, chr(point).encode(), strict=True))
    assert len(chars) == 243  # all bytes that occur in UTF-8
    never = {chr(byte): byte for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}
    assert set(never) | set(chars) == set(pre_tokenizers.ByteLevel.alphabet())
    return chars | never


@settings(max_examples=300, deadline=None)
@given(st.text(" ab", max_size=14), st.integers(0, 3), st.integers(0, 3), st.integers(0, 14))
def test_stripping_a_stream_is_the_librarys_strip(text, start, stop, cut):
    assume(len(text) >= start + stop)  # the library panics on less
    stage = TextStrip(" ", start, stop)
    pieces = [*stage.feed(text[:cut]), *stage.feed(text[cut:]), *stage.finish()]
    assert "".join(pieces) == decoders.Strip(" ", start, stop).decode([text])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("ab", max_size=6), max_size=6), st.text("ab", min_size=1, max_size=4))
def test_replacing_in_a_stream_is_replacing_in_the_text(pieces, old):
    stage = TextReplace(old, "x")
    done = [settled for piece in pieces for settled in stage.feed(piece)] + [*stage.finish()]
    assert "".join(done) == "".join(pieces).replace(old, "x")


def test_an_emoji_in_four_tokens_comes_whole_and_at_once():
    tokenizer = tokenizer_of("byte-level")
    of_byte = {byte: char for char, byte in byte_chars().items()}
    ids = [tokenizer.token_to_id(of_byte[byte]) for byte in "a🦊b".encode()]
    assert pieces_of(plan_decoding(tokenizer), ids) == ["a", "", "", "", "🦊", "b", ""]


def test_a_byte_run_waits_for_its_end_because_it_is_judged_as_a_whole():
    tokenizer = tokenizer_of("gemma")
    good = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "é".encode()]
    bad, letter = tokenizer.token_to_id("<0xFF>"), tokenizer.token_to_id("e")
    plan = plan_decoding(tokenizer)
    assert pieces_of(plan, [*good, letter]) == ["", "", "ée", ""]
    assert pieces_of(plan, [*good, bad, letter]) == ["", "", "", "\ufffd\ufffd\ufffde", ""]


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("kind", ["word piece, as is", "metaspace", "no decoder"])
def test_the_clean_up_of_spaces_is_transformers_own(kind, clean):
    words = ["n't", "'", ".", " .", "'s", "'ve", "'re", "'m", "n", "'t", "?", " ' ", "!", ",", "a"]
    backend = Tokenizer.from_str(tokenizer_of(kind).to_str())
    backend.add_tokens(words)
    reference = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=clean,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=clean,
    )
    plan = plan_decoding(backend, clean_up=clean)
    ids = [backend.token_to_id(word) for word in words]

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.sampled_from(ids), max_size=12))
    def check(chosen):
        assert "".join(pieces_of(plan, chosen)) == reference.decode(chosen, skip_special_tokens=True)

    check()


def test_a_tokenizer_with_its_own_decoding_is_decoded_as_a_whole():
    plan = plan_decoding(tokenizer_of("byte-level"), decode_all=lambda ids: f"<{len(ids)}>")
    assert not plan.streams
    assert pieces_of(plan, [1, 2, 3]) == ["", "", "", "<3>"]
