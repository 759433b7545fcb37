#!/bin/sh
# Over HTTP with nothing but curl: sh examples/over_http.sh [URL] [QUESTION]
set -eu
url=${1:-http://127.0.0.1:8000}
question=${2:-What is in these documents?}

curl -sSf "$url/readyz"
echo
curl -sSf "$url/v1/query" -H 'content-type: application/json' -d "{\"question\": \"$question\", \"max_tokens\": 16}"
echo
curl -sSfN "$url/v1/query" -H 'content-type: application/json' \
    -d "{\"question\": \"$question\", \"max_tokens\": 16, \"stream\": true}"
curl -sSf "$url/v1/cache"
echo
