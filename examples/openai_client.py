"""An OpenAI client of vLLM with the connector; needs `pip install openai`, and a server as docs/vllm.md starts it.

The request says how many tokens each of its segments has, so that a document's KV is kept by itself. The answer says
where the prompt's tokens came from.
"""

import argparse

from openai import OpenAI
from transformers import AutoTokenizer

SYSTEM = "Answer from the documents."
DOCUMENTS = [
    "Otters hold hands while they sleep, so that the river does not carry them apart.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default="Why do otters hold hands?")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", required=True, help="as the server has it")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    # segments are tokenised alone, and sent as ids: the same document has the same tokens in every prompt
    segments = [tokenizer.encode(text + "\n", add_special_tokens=False) for text in (SYSTEM, *DOCUMENTS)]
    question = tokenizer.encode(options.question, add_special_tokens=False)
    client = OpenAI(base_url=options.url, api_key="unused")
    completion = client.completions.create(
        model=options.model,
        prompt=[*(token for segment in segments for token in segment), *question],
        max_tokens=32,
        extra_body={"kv_transfer_params": {"segments": [len(segment) for segment in segments]}},
    )
    print(completion.choices[0].text)
    print(completion.model_dump().get("kv_transfer_params"))


if __name__ == "__main__":
    main()
