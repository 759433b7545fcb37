"""Over HTTP: asks a running `ragcache serve`, as a stream and as a whole. `python examples/over_http.py --url URL`"""

import argparse

from ragcache import RagClient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default="What is in these documents?")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    options = parser.parse_args()
    with RagClient(options.url) as client:
        for event, data in client.stream(options.question, max_tokens=32):
            if event == "documents":
                print("documents:", ", ".join(document["title"] or document["id"] for document in data["documents"]))
            elif event == "delta":
                print(data["text"], end="", flush=True)
            else:
                print(f"\ntime to first token: {data['timing']['ttft_ms']:.0f} ms, usage: {data['usage']}")
        print("the device holds", client.get("/v1/cache")["tiers"]["device"]["bytes"])


if __name__ == "__main__":
    main()
