"""Exactness: greedy answers, token by token, with the cache off, on, warm, cleared, from disk and from host memory."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from eval.props.question_set import QuestionError, read_questions
from ragcache.cli.assembly.torch import assemble
from ragcache.cli.config import ServeConfig
from ragcache.console import streams
from ragcache.engine.torch.model import layout_of
from ragcache.errors import RagCacheError
from ragcache.model.checkpoint import Checkpoint, load_config
from ragcache.prompt.template import PromptTemplate
from ragcache.service.answer import Answer, Query
from ragcache.service.service import RagService
from retrieval.embedder import Embedder
from retrieval.errors import RetrievalError
from retrieval.index import build_index
from retrieval.retriever import Retriever

TIE = 1e-4  # logits this close may swap places by float rounding


@dataclass(frozen=True, slots=True)
class Generated:
    """Token ids of an answer; `margins[i]` is the best logit less the second where `ids[i]` was chosen."""

    ids: tuple[int, ...]
    margins: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The answers of one way to run beside the reference: how many are equal, how many tied, which questions differ."""

    name: str
    equal: int
    ties: int
    different: tuple[str, ...]
    computed_tokens: int
    cached_tokens: dict[str, int]  # by tier


def compare(reference: Generated, other: Generated) -> str:
    """ "equal", "tie" (the first difference is between logits less than `TIE` apart) or "different"."""
    for place, (expected, got) in enumerate(zip_longest(reference.ids, other.ids)):
        if expected != got:
            # an answer that ends here chose the end token; the margin is in the answer that goes on
            source = reference if place < len(reference.margins) else other
            return "tie" if source.margins[place] <= TIE else "different"
    return "equal"


class Exactness:
    """Asks the same questions in several ways. `config` describes the service."""

    def __init__(self, config: ServeConfig, questions: Sequence[str], max_tokens: int) -> None:
        self._config = config
        self._questions = questions
        self._max_tokens = max_tokens

    def run(self, plain: int = 0, cleared: int | None = None) -> list[Comparison]:
        """Compares each way to run with the service whose cache is off; `plain` questions also with `transformers`.

        Clearing before each question, which computes as much as without a cache, goes over the first `cleared` of them
        (None: all).

        A second service starts on what the first left on disk, with a device so small that each question empties it.
        """
        with self._service(cache=False) as service:
            off = self._ask(service, "cache off", self._questions)
        reference = [Generated(answer.token_ids, answer.margins) for answer in off]
        comparisons = []

        def run(service: RagService, name: str) -> None:
            comparisons.append(self._compare(name, reference, self._ask(service, name, self._questions)))

        with tempfile.TemporaryDirectory(prefix="ragcache-exactness-") as folder:
            disk = f"{folder}/kv:8GiB"
            with self._service(disk_cache=disk) as service:
                run(service, "cache on")
                run(service, "cache warm")
            with self._service(disk_cache=disk, host_cache=8 << 30, device_cache=self._one_request()) as service:
                run(service, "from disk")
                run(service, "from host")
                asked = self._questions[:cleared]
                answers = self._ask(service, "cleared before each", asked, clear=True)
                comparisons.append(self._compare("cleared before each", reference[: len(asked)], answers))
        if plain:
            comparisons.append(self._compare_plainly(reference[:plain]))
        return comparisons

    def _one_request(self) -> int:
        """Bytes of device memory for little more than one question."""
        config = self._config
        model: Any = load_config(Checkpoint.resolve(config.model))
        tokens = (config.top_k + 1) * config.max_doc_tokens + config.max_question_tokens + config.max_tokens
        return tokens * layout_of(model.get_text_config(), torch.float32).bytes_per_token

    @contextmanager
    def _service(self, **changes: Any) -> Iterator[RagService]:
        settings = {name: getattr(self._config, name) for name in ServeConfig.__slots__}
        service = assemble(ServeConfig(**{**settings, **changes}))
        try:
            yield service
        finally:
            service.close()
            del service
            gc.collect()

    def _ask(self, service: RagService, name: str, questions: Sequence[str], *, clear: bool = False) -> list[Answer]:
        async def one(question: str) -> Answer:
            async for event in service.ask(Query(question, max_tokens=self._max_tokens)):
                if isinstance(event, Answer):
                    return event
            raise RuntimeError("no answer")

        async def every() -> list[Answer]:
            answers = []
            for question in tqdm(questions, desc=name, file=sys.stderr):
                if clear:
                    await service.clear()
                answers.append(await one(question))
                service.cache.check_integrity()
            await service.finish_writing(120)
            return answers

        return asyncio.run(every())

    def _compare(self, name: str, reference: Sequence[Generated], answers: Sequence[Answer]) -> Comparison:
        generated = [Generated(answer.token_ids, answer.margins) for answer in answers]
        usages = [answer.usage for answer in answers]
        return self._verdict(
            name,
            reference,
            generated,
            computed=sum(usage.computed_tokens for usage in usages),
            cached={
                tier: sum(getattr(usage.cached_tokens, tier) for usage in usages) for tier in ("device", "host", "disk")
            },
        )

    def _verdict(
        self,
        name: str,
        reference: Sequence[Generated],
        other: Sequence[Generated],
        *,
        computed: int,
        cached: dict[str, int],
    ) -> Comparison:
        verdicts = [compare(expected, got) for expected, got in zip(reference, other, strict=True)]
        different = [
            question for question, verdict in zip(self._questions, verdicts, strict=False) if verdict == "different"
        ]
        return Comparison(name, verdicts.count("equal"), verdicts.count("tie"), tuple(different), computed, cached)

    def _compare_plainly(self, reference: Sequence[Generated]) -> Comparison:
        """Compares with `transformers`' own generation over the same prompts: none of this project's code computes."""
        config = self._config
        checkpoint = Checkpoint.resolve(config.model)
        template = PromptTemplate.load(
            checkpoint, max_doc_tokens=config.max_doc_tokens, max_question_tokens=config.max_question_tokens
        )
        module = AutoModelForCausalLM.from_pretrained(checkpoint.location, dtype=torch.float32).eval()
        answers, computed = [], 0
        with Retriever.open(config.index) as retriever, torch.inference_mode():
            for question in tqdm(self._questions[: len(reference)], desc="plain transformers", file=sys.stderr):
                documents = [hit.document for hit in retriever.search(question, config.top_k)]
                prompt = template.build(question, documents, room=1 << 30)
                ids = [token for segment in prompt.path for token in segment.tokens] + list(prompt.question)
                output = module.generate(
                    torch.tensor([ids]),
                    attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                    max_new_tokens=self._max_tokens,
                    do_sample=False,
                    return_dict_in_generate=True,
                    output_logits=True,
                )
                answers.append(_generated(output, len(ids), module.generation_config.eos_token_id))
                computed += len(ids)
        return self._verdict("plain transformers", reference, answers, computed=computed, cached={})


def _generated(output: Any, prompt_tokens: int, eos: int | list[int] | None) -> Generated:
    ends = {eos} if isinstance(eos, int) else set(eos or ())
    ids = [token for token in output.sequences[0, prompt_tokens:].tolist() if token not in ends]
    best = [logits[0].topk(2).values for logits in output.logits]
    return Generated(tuple(ids), tuple(float(pair[0] - pair[1]) for pair in best))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if any answer differs by more than a tie."""
    parser = argparse.ArgumentParser(prog="python -m eval.exactness", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--index", type=Path, help="folder of a built index")
    source.add_argument("--corpus", type=Path, help="docs.jsonl[.gz]; an index is built in a temporary folder")
    parser.add_argument("--embeddings", type=Path, help="vectors of the corpus, instead of embedding it")
    parser.add_argument("--questions", type=Path, required=True, help="JSON lines with id, question")
    parser.add_argument("--count", type=int, default=50, help="questions, spread evenly over the file (default: 50)")
    parser.add_argument("--model", default="default", help="folder, GGUF file or Hugging Face id")
    parser.add_argument("--max-doc-tokens", type=int, default=200, metavar="N", help="default: %(default)s")
    parser.add_argument("--max-tokens", type=int, default=16, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--plain", type=int, default=0, metavar="N", help="compare N questions with plain transformers, too"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            index = options.index
            if index is None:
                index = Path(folder) / "index"
                build_index(options.corpus, index, "flat", Embedder.load(), options.embeddings)
            texts = [question.text for question in read_questions(options.questions)]
            count = min(options.count, len(texts))
            questions = [texts[number * len(texts) // count] for number in range(count)]
            config = ServeConfig(
                index=index, model=options.model, max_doc_tokens=options.max_doc_tokens, max_tokens=options.max_tokens
            )
            results = Exactness(config, questions, options.max_tokens).run(options.plain)
    except (RagCacheError, RetrievalError, QuestionError) as error:
        print(f"exactness: {error}", file=sys.stderr)
        return 1
    print(_as_json(results, count) if options.json else _in_words(results, count))
    return 1 if any(result.different for result in results) else 0


def _as_json(results: Sequence[Comparison], count: int) -> str:
    rows = [{name: getattr(result, name) for name in Comparison.__slots__} for result in results]
    return json.dumps({"questions": count, "reference": "cache off", "tie": TIE, "comparisons": rows}, indent=2)


def _in_words(results: Sequence[Comparison], count: int) -> str:
    lines = [f"{count} questions, greedy, against the service with its cache off:"]
    for result in results:
        lines.append(
            f"  {result.name:<22} {result.equal} equal, {result.ties} ties (logits within {TIE:g}), "
            f"{len(result.different)} different; tokens: {result.computed_tokens:,} computed"
            + "".join(f", {tokens:,} from the {tier}" for tier, tokens in result.cached_tokens.items() if tokens)
        )
        lines += [f"    different: {question}" for question in result.different]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.exactness"))
