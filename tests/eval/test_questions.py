"""The Python question set and its recall, and the recall command on any question file."""

import gzip
import json
from pathlib import Path

import pytest

from eval import recall
from eval.props.question_set import QuestionError, read_questions
from eval.recall import Outcome, hit_ratio, measure
from retrieval.corpus import Document, write_corpus
from retrieval.embedder import Embedder
from retrieval.index import build_index
from retrieval.passages import PassageSplitter
from retrieval.retriever import Retriever

QUESTIONS = Path(recall.__file__).parent / "questions" / "python.jsonl"


@pytest.fixture(scope="module")
def outcomes(demo_index: Path) -> list[Outcome]:
    with Retriever.open(demo_index) as retriever:
        return measure(retriever, read_questions(QUESTIONS), top_k=3)


@pytest.fixture(scope="module")
def small_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recall")
    texts = {"cats": "Cats purr and catch mice.", "tea": "Tea is brewed from leaves.", "sea": "The sea is salty."}
    write_corpus(folder / "corpus.jsonl", (Document(name, "", text) for name, text in texts.items()))
    build_index(folder / "corpus.jsonl", folder / "index", "flat", Embedder.load(threads=1), progress=False)
    return folder / "index"


def test_questions_are_many_different_and_labelled() -> None:
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    questions = read_questions(QUESTIONS)
    assert len(rows) == len(questions) >= 120
    assert all(question.doc_ids for question in questions)
    assert all(list(row) == ["id", "question", "doc_ids"] for row in rows)
    assert [row["id"] for row in rows] == [f"py-{number:03d}" for number in range(1, len(rows) + 1)]
    assert len({row["question"].casefold() for row in rows}) == len(rows)
    assert all(len(set(row["doc_ids"])) == len(row["doc_ids"]) for row in rows)


def test_questions_do_not_repeat_the_titles_of_their_documents() -> None:
    for question in read_questions(QUESTIONS):
        assert not any("." in doc_id and doc_id in question.text for doc_id in question.doc_ids), question.id


@pytest.mark.full(proof="test_the_command_reports_hits_misses_and_skipped_rows")
@pytest.mark.real
def test_four_in_five_questions_find_a_document_of_theirs(outcomes: list[Outcome]) -> None:
    assert len(outcomes) >= 120  # measured, so every labelled document exists
    assert hit_ratio(outcomes, 3) >= 0.8
    assert hit_ratio(outcomes, 1) < hit_ratio(outcomes, 2) < hit_ratio(outcomes, 3)


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_the_command_reports_hits_misses_and_skipped_rows(
    small_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        tmp_path / "questions.jsonl",
        {"id": "1", "question": "Which animal catches mice?", "doc_ids": ["cats"], "kind": "x"},
        {"id": "2", "question": "Is sea water salty?", "doc_ids": ["tea"]},
        {"id": "3", "question": "Anything?", "doc_ids": []},
        {"id": "4", "question": "Anything else?"},
    )
    arguments = ["--index", str(small_index), "--questions", str(file), "--top-k", "1"]
    assert recall.main(arguments) == 0
    printed = capsys.readouterr().out
    for words in ("questions  2", "skipped    2", "found      1 in the first 1", "hit ratio  0.500", "missed     2"):
        assert words in printed
    assert recall.main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["questions"], report["unlabelled"], report["hit_ratio"]) == (2, 2, 0.5)
    assert [hit["id"] for hit in report["missed"][0]["retrieved"]] == ["sea"]


def test_a_passage_counts_as_its_document(tmp_path: Path) -> None:
    text = "Cats sleep most of the day. " * 20 + "Cats catch mice in the barn at night."
    documents = [Document("cats", "", text), Document("tea", "", "Tea is made of leaves.")]
    write_corpus(tmp_path / "corpus.jsonl", documents)
    embedder = Embedder.load(threads=1)
    cut = PassageSplitter(embedder, 64)
    build_index(tmp_path / "corpus.jsonl", tmp_path / "index", "flat", embedder, progress=False, cut=cut)
    file = write(tmp_path / "q.jsonl", {"id": "1", "question": "Which animal catches mice?", "doc_ids": ["cats"]})
    with Retriever.open(tmp_path / "index") as retriever:
        outcomes = measure(retriever, read_questions(file), 1)
        assert outcomes[0].hits[0].document.id.startswith("cats#")
        assert hit_ratio(outcomes, 1) == 1
        wrong = write(tmp_path / "w.jsonl", {"id": "1", "question": "Why?", "doc_ids": ["dogs"]})
        with pytest.raises(QuestionError, match="document 'dogs' is not in the index"):
            measure(retriever, read_questions(wrong), 1)


def test_gzipped_questions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "1", "question": "Why?", "doc_ids": ["a"]}\n\n'))
    assert [question.doc_ids for question in read_questions(path)] == [("a",)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"id": 2, "question": "Why?"}', "'id' must be a string"),
        ('{"id": "2", "question": " "}', "'question' must be a string that is not blank"),
        ('{"id": "2", "question": "Why?", "doc_ids": "a"}', "'doc_ids' must be a list"),
        ('{"id": "1", "question": "Why?", "doc_ids": ["a"]}', "'1' is already used on line 1"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path: Path, row: str, words: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f'{{"id": "1", "question": "Why?", "doc_ids": ["a"]}}\n{row}\n')
    with pytest.raises(QuestionError, match=words) as caught:
        read_questions(path)
    assert f"{path}:2: " in str(caught.value)


def test_unknown_documents_and_missing_files_end_the_command(
    small_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "q.jsonl", {"id": "1", "question": "Why?", "doc_ids": ["cats", "dogs"]})
    assert recall.main(["--index", str(small_index), "--questions", str(file)]) == 2
    assert f"error: {file}:1: document 'dogs' is not in the index" in capsys.readouterr().err
    for index, questions in ((small_index, tmp_path / "none.jsonl"), (tmp_path / "none", file)):
        assert recall.main(["--index", str(index), "--questions", str(questions)]) == 2
        assert "none" in capsys.readouterr().err
    assert recall.main(["--index", str(small_index), "--questions", str(file), "--top-k", "9"]) == 2


def test_questions_without_labels_are_read_but_have_no_recall(
    small_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "q.jsonl", {"id": "1", "question": "Why?"})
    assert [question.doc_ids for question in read_questions(file)] == [()]
    assert recall.main(["--index", str(small_index), "--questions", str(file)]) == 2
    assert "no question names its documents" in capsys.readouterr().err


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("\n")
    with pytest.raises(QuestionError, match="holds no question"):
        read_questions(tmp_path / "q.jsonl")
