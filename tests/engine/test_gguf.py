"""Law B for GGUF: transformers' bits on what the blocks mean, the blocks themselves in the slots."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

import locum
from helpers_gguf import ARCHITECTURES, Written, write_gguf
from helpers_laws import Subject, drive, reference, same_bits, swapped
from locum.backbone.family import read_config
from locum.engine.tokenizer import load_tokenizer
from locum.errors import CheckpointError, PromptError
from locum.model import Checkpoint, MoESpec, inspect
from locum.store.index import ExpertIndex

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WIDE: dict[str, Any] = {"hidden_size": 256, "moe_intermediate_size": 256, "num_hidden_layers": 2}
WIDE |= {"mlp_only_layers": [], "layer_types": None}
READ_BY_TRANSFORMERS = ("qwen3_moe", "qwen2_moe", "minimax_m2")


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Written]:
    made: dict[Any, Written] = {}

    def one(family: str, kind: Any, dtype: str, **options: Any) -> Written:
        key = family, kind, dtype, str(options)
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            made[key] = write_gguf(family, folder, kind, DTYPES[dtype], **options)
        return made[key]

    return one


def _require_law_b(written: Written, dtype: str, **options: Any) -> Subject:
    subject = Subject(written.path, DTYPES[dtype])
    ours = subject.run(6, **options)
    theirs = reference(written.meaning, DTYPES[dtype])
    assert ours.tokens == theirs.tokens
    assert same_bits(ours.logits, theirs.logits)
    return subject


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("family", [family for family in ARCHITECTURES if family != "llama4"])
def test_every_architecture_gives_the_reference_s_bits(
    write: Callable[..., Written], family: str, dtype: str
) -> None:
    _require_law_b(write(family, Kind.Q8_0, dtype), dtype)


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_llama4_gives_the_bits_of_its_safetensors(write: Callable[..., Written], dtype: str) -> None:
    # eager runs each expert on every token: other bits, the same tokens (see docs/families.md)
    written = write("llama4", Kind.Q8_0, dtype)
    ours, twin = (Subject(path, DTYPES[dtype]).run(6) for path in (written.path, written.meaning))
    assert same_bits(ours.logits, twin.logits)
    assert ours.tokens == reference(written.meaning, DTYPES[dtype]).tokens


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize(
    "kind",
    [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.IQ4_NL, Kind.MXFP4],
)
def test_every_type_of_32_gives_the_reference_s_bits(
    write: Callable[..., Written], kind: Kind, dtype: str
) -> None:
    subject = _require_law_b(write("mixtral", kind, dtype), dtype)
    raw = {view.raw_dtype for layer in subject.index.layers for view in layer.tensors}
    floats = {Kind.F32: "float32", Kind.F16: "float16", Kind.BF16: "bfloat16"}
    assert raw == {floats.get(kind)}  # plain floats are used where they lie


@pytest.mark.parametrize("kind", [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_XS])
def test_blocks_of_256_give_the_reference_s_bits(write: Callable[..., Written], kind: Kind) -> None:
    _require_law_b(write("qwen3_moe", kind, "bfloat16", **WIDE), "bfloat16")


def _as_q4_k_m(name: str) -> Kind:
    """What llama.cpp calls Q4_K_M, in spirit: several types in one expert."""
    if "ffn_down_exps" in name or name == "token_embd.weight":
        return Kind.Q6_K
    return Kind.Q8_0 if "ffn_up_exps" in name else Kind.Q4_K


@pytest.mark.parametrize(
    "options",
    [{}, {"eviction": "lfu"}, {"prefetch": "none"}, {"mover": "pagecache"}],
    ids=["default", "lfu", "no prefetch", "page cache"],
)
def test_several_types_in_one_expert_and_any_way_of_running(
    write: Callable[..., Written], options: dict[str, str]
) -> None:
    _require_law_b(write("qwen3_moe", _as_q4_k_m, "bfloat16", **WIDE), "bfloat16", **options)


@pytest.mark.parametrize("slots", [3, 7, 1000])
def test_any_budget_gives_the_same_bits(write: Callable[..., Written], slots: int) -> None:
    subject = Subject(write("deepseek_v3", Kind.Q4_0, "bfloat16").path, torch.bfloat16)
    assert same_bits(subject.run(slots).logits, subject.run(24).logits)


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3"])
def test_deepseek_of_before_the_split_of_kv_b(write: Callable[..., Written], family: str) -> None:
    _require_law_b(write(family, Kind.Q8_0, "float32", latent_halves=False), "float32")


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.BF16])
def test_experts_that_change_places_change_the_bits(write: Callable[..., Written], kind: Kind) -> None:
    written = write("qwen2_moe", kind, "float32")
    subject = _require_law_b(written, "float32")
    assert not same_bits(swapped(subject).logits, reference(written.meaning).logits)


def _as_gpt_oss(name: str) -> Kind:
    """How gpt-oss is published: experts in MXFP4, the rest in more bits."""
    return Kind.MXFP4 if "_exps.weight" in name else Kind.Q8_0


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("kind", [_as_gpt_oss, Kind.BF16, Kind.F32], ids=["mxfp4", "bf16", "f32"])
def test_woven_transposed_experts_stay_in_their_blocks(
    write: Callable[..., Written], kind: Any, dtype: str
) -> None:
    subject = _require_law_b(write("gpt_oss", kind, dtype), dtype)
    bytes_of = {Kind.BF16: 2 * 32, Kind.F32: 4 * 32}.get(kind, 17)  # of 32 numbers
    numbers, biases = 3 * 64 * 32, 2 * 32 + 64
    assert {subject.index.stored_bytes(key) for key in range(8)} == {numbers // 32 * bytes_of + 4 * biases}


def test_tied_embeddings(write: Callable[..., Written]) -> None:
    written = write("qwen3_moe", Kind.Q8_0, "float32", tie_word_embeddings=True)
    assert MoESpec.of(Checkpoint.open(written.path)).tied_embeddings
    _require_law_b(written, "float32")


def test_parts_are_one_model(write: Callable[..., Written]) -> None:
    written = write("olmoe", Kind.Q8_0, "float32", split=13)
    whole = Checkpoint.open(written.path)
    assert len(whole.files) > 2
    last = written.path.with_name(whole.files[-1].name)
    assert Checkpoint.open(last) == whole == Checkpoint.open(written.path.parent)
    _require_law_b(written, "float32")
    last.rename(last.with_suffix(".elsewhere"))
    try:
        with pytest.raises(CheckpointError, match="parts of a split GGUF are missing"):
            Checkpoint.open(written.path)
    finally:
        last.with_suffix(".elsewhere").rename(last)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("family", READ_BY_TRANSFORMERS)
def test_transformers_reads_the_same_out_of_the_file(
    write: Callable[..., Written], family: str, dtype: str
) -> None:
    # its own loader needs the config from us: it does not ask the file for the experts' width
    written = write(family, Kind.Q4_0, dtype)
    config = AutoConfig.from_pretrained(written.meaning)
    model = AutoModelForCausalLM.from_pretrained(
        written.path.parent,
        gguf_file=written.path.name,
        config=config,
        dtype=DTYPES[dtype],
        experts_implementation="eager",
    ).eval()
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    ours = Subject(written.path, DTYPES[dtype]).run(6)
    logits, tokens = drive(model, DynamicCache(config=model.config))
    assert ours.tokens == tokens
    assert same_bits(ours.logits, logits)


@pytest.mark.parametrize("family", [family for family in ARCHITECTURES if family != "qwen3_vl_moe"])
def test_the_config_comes_back(write: Callable[..., Written], family: str) -> None:
    written = write(family, Kind.Q8_0, "float32")
    theirs = AutoConfig.from_pretrained(written.meaning).to_dict()
    ours = read_config(Checkpoint.open(written.path)).to_dict()
    unsaid = {"_name_or_path", "dtype", "use_sliding_window", "max_window_layers", "attention_bias"}
    unsaid |= {"num_mtp_layers", "intermediate_size", "rotary_dim"}  # where no layer is dense it is nobody's
    for config in (theirs, ours):
        for inner in ("attn_config", "ffn_config"):
            config.get(inner, {}).pop("dtype", None)  # transformers writes it where it saves a model
    differ = {key for key in theirs if theirs[key] != ours.get(key)} - unsaid
    assert not differ, {key: (theirs[key], ours.get(key)) for key in differ}


def test_an_arena_holds_the_blocks_of_the_file(write: Callable[..., Written]) -> None:
    written = write("qwen2_moe", Kind.Q4_0, "bfloat16")
    spec = MoESpec.of(Checkpoint.open(written.path))
    # 3 matrices of 64 x 32 numbers, 32 in 18 bytes
    assert set(spec.expert_bytes) == {3 * 64 * 32 // 32 * 18}
    subject = Subject(written.path)
    assert {layer.image_bytes for layer in subject.index.layers} == {spec.expert_bytes[0]}
    assert {subject.index.stored_bytes(key) for key in range(8)} == {spec.expert_bytes[0]}
    assert spec.params == sum(
        p.numel() for p in AutoModelForCausalLM.from_pretrained(written.meaning).parameters()
    )


def test_the_index_keeps_where_every_byte_lies(write: Callable[..., Written], tmp_path: Path) -> None:
    subject = Subject(write("qwen3_moe", Kind.Q4_0, "float32").path)
    subject.index.save(tmp_path / "index.json")
    assert ExpertIndex.load(tmp_path / "index.json") == subject.index


def test_the_engine_takes_the_file_for_all_it_needs(write: Callable[..., Written]) -> None:
    written = write("qwen3_moe", Kind.Q4_0, "bfloat16")
    with locum.load(written.path, expert_memory="50%", context=128) as engine:
        assert engine.spec.dtype == "bfloat16"
        assert engine.defaults.end_tokens == {2}
        answer = engine.generate([{"role": "user", "content": "he"}], max_tokens=4, ignore_eos=True)
        assert answer.prompt_tokens == 3
        assert len(answer.tokens) == 4
    found = inspect(written.path)
    assert found.path == written.path
    assert found.spec.quantization == "gguf"
    assert found.spec.runnable


def test_the_tokenizer_is_transformers_reading(write: Callable[..., Written]) -> None:
    written = write("qwen3_moe", Kind.Q4_0, "float32")
    theirs = AutoTokenizer.from_pretrained(written.path.parent, gguf_file=written.path.name)
    ours = load_tokenizer(written.path)
    for text in ("hello he", "a <eos> b<bos>", "naïve 123 ...\n\n  x"):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True)
    assert ours.eos == theirs.eos_token_id == 2
    assert ours.chat_text([{"role": "user", "content": "x"}]) == "<bos>x<eos>"


def test_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    words = ["\u2581", "h", "e", "l", "o", "he", "ll", "llo", "\u2581he", "hello", "\u2581hello"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(242)), *words]
    extra: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [*[0.0] * 245, *(-float(place) for place in range(len(words)))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 242, *[1] * len(words)],
        "tokenizer.ggml.merges": ["h e", "l l", "ll o", "\u2581 he", "he llo", "\u2581he llo"],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }
    written = write_gguf("mixtral", tmp_path, Kind.Q8_0, extra=extra)
    theirs = _theirs(written)
    ours = load_tokenizer(written.path)
    for text in ("hello he", "hello</s>hell", " o\n"):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True)
    assert ours.encode("hello")[0] == 1  # begins with <s>


def _theirs(written: Written) -> Any:
    """transformers' tokenizer, which reads the vocabulary by way of a config it does not know here."""
    from transformers import LlamaTokenizer

    return LlamaTokenizer.from_pretrained(written.path.parent, gguf_file=written.path.name)


def test_a_file_without_a_chat_template_or_tokenizer(tmp_path: Path) -> None:
    plain = write_gguf("olmoe", tmp_path / "a", Kind.Q8_0, extra={"tokenizer.chat_template": ""})
    with pytest.raises(PromptError):
        load_tokenizer(plain.path).chat_text([])
    bare = write_gguf("olmoe", tmp_path / "b", Kind.Q8_0, extra={"tokenizer.ggml.tokens": 3})
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        load_tokenizer(bare.path)


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"tokenizer.ggml.model": "new"}, "cannot be loaded"),
        ({"tokenizer.ggml.merges": 7}, "cannot be loaded"),
        ({"tokenizer.ggml.merges": ["a", "b c d"]}, "cannot be loaded"),
        ({"tokenizer.ggml.tokens": ["a" * 5000]}, "absurdly long token"),
    ],
)
def test_a_vocabulary_that_makes_no_sense(tmp_path: Path, extra: dict[str, Any], match: str) -> None:
    written = write_gguf("olmoe", tmp_path, Kind.Q8_0, extra=extra)
    with pytest.raises(CheckpointError, match=match):
        load_tokenizer(written.path)
