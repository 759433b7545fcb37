#!/bin/sh
# Over HTTP with nothing but curl: sh examples/over_http.sh [URL] [QUESTION]
set -eu
url=${1:-http://127.0.0.1:8000}
question=${2:-What is in these documents?}

curl -sf "$url/readyz"
echo
curl -sf "$url/v1/query" -H 'content-type: application/json' -d "{\"question\": \"$question\", \"max_tokens\": 16}"
echo
curl -sfN "$url/v1/query" -H 'content-type: application/json' \
    -d "{\"question\": \"$question\", \"max_tokens\": 16, \"stream\": true}"
curl -sf "$url/v1/cache"
echo
