"""Ask: a question to your documents. `python examples/ask.py --index my-index/faiss.idx "What is in there?"`"""

import argparse

import ragcache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default="What is in these documents?")
    parser.add_argument("--index", required=True, help="faiss.idx of a folder that `ragcache index` wrote")
    parser.add_argument("--model", default="default", help="folder, GGUF file or Hugging Face id")
    parser.add_argument("--max-tokens", type=int, default=128)
    options = parser.parse_args()
    with ragcache.open_service(index=options.index, model=options.model, max_tokens=options.max_tokens) as service:
        for again in ("first", "again"):  # the second time, only the question's own tokens are computed
            answer = service.ask(options.question)
            print(f"asked {again}: {answer.usage.computed_tokens} of {answer.usage.prompt_tokens} tokens computed")
        print("documents:", ", ".join(document.title or document.id for document in answer.documents))
        print(answer.answer)


if __name__ == "__main__":
    main()
