"""The bench of embedding: the operations it counts, a whole report, and options it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from eval.bench_embedding import encoder_flops, main, product_rate
from retrieval.corpus import Document, write_corpus


@pytest.mark.parametrize("lengths", [[1], [7, 7], [33, 2, 18]])
def test_operations_are_those_torch_counts(lengths: list[int]) -> None:
    config = BertConfig(vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40)
    config._attn_implementation = "eager"  # of the fused one, torch counts nothing on a CPU
    model = BertModel(config, add_pooling_layer=False).eval()
    with FlopCounterMode(display=False) as counter:
        for length in lengths:
            model(torch.zeros(1, length, dtype=torch.long))
    assert encoder_flops(lengths, 3, 24, 40) == counter.get_total_flops()


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Path]:
    write_corpus(tmp_path / "docs.jsonl", (Document(str(n), "", f"text number {n} " * (n + 1)) for n in range(9)))
    return tmp_path / "docs.jsonl"


def test_reports_on_a_corpus_and_on_made_up_texts(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, texts in ((["--corpus", str(corpus), "--count", "4"], 4), (["--count", "2"], 2)):
        assert main([*options, "--rounds", "1", "--threads", "1", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["texts"] == texts
        assert report["tokens"] > 2 * texts
        assert report["tokens_per_second"] == pytest.approx(report["tokens"] / report["seconds"], rel=0.1)
        assert report["share_of_product"] == pytest.approx(report["gflops"] / report["product_gflops"], rel=0.1)


def test_the_yardstick_leaves_torchs_threads_alone() -> None:
    before = torch.get_num_threads()
    assert product_rate(before + 1, 8, 16) > 0
    assert torch.get_num_threads() == before


def test_wrong_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--count", "0"])
    assert "numbers must be at least 1" in capsys.readouterr().err
    assert main(["--corpus", str(tmp_path / "none.jsonl")]) == 1
    assert "does not exist" in capsys.readouterr().err
