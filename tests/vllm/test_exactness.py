"""The connector never changes an answer: token ids are those of plain vLLM, from whichever tier the documents come."""

from tests.vllm.site import BLOCK, SYSTEM, document

DOCUMENTS = [document(seed, tokens) for seed, tokens in enumerate((200, 333, 64, 150, 290))]
QUESTIONS = [
    ([a, b], range(700 + n, 715 + 2 * n))
    for n, (a, b) in enumerate([(0, 1), (1, 0), (2, 3), (3, 4), (4, 2), (0, 1), (2, 3)])
]


def test_answers_are_those_of_plain_vllm(site):
    plain = site(plain=True)
    wanted = [plain.ask([DOCUMENTS[d] for d in documents], question).ids for documents, question in QUESTIONS]
    ours = site(blocks=48)
    sources: dict[str, int] = {}
    for _ in range(2):
        for (documents, question), ids in zip(QUESTIONS, wanted, strict=True):
            answered = ours.ask([DOCUMENTS[d] for d in documents], question)
            assert answered.ids == ids
            for name, tokens in answered.cached.items():
                sources[name] = sources.get(name, 0) + tokens
        ours.forget_device()
    assert sources["host"] > 2000


def test_a_document_is_found_behind_the_same_ones_only(site):
    ours = site()
    a, b = DOCUMENTS[:2]
    assert ours.ask([a, b]).cached == {"device": 0}
    ours.forget_device()
    whole = (len(SYSTEM) + len(a) + len(b)) // BLOCK * BLOCK
    assert ours.ask([a, b]).cached == {"device": 0, "host": whole}
    ours.forget_device()
    # the other order shares the system prompt's block
    assert ours.ask([b, a]).cached == {"device": 0, "host": len(SYSTEM) // BLOCK * BLOCK}


def test_what_vllm_has_itself_is_not_loaded(site):
    ours = site()
    a, b = DOCUMENTS[:2]
    ours.ask([a])
    ours.ask([a, b])
    ours.forget_device()
    ours.ask([a])
    first = (len(SYSTEM) + len(a)) // BLOCK * BLOCK
    both = (len(SYSTEM) + len(a) + len(b)) // BLOCK * BLOCK
    assert ours.ask([a, b]).cached == {"device": first, "host": both - first}


def test_a_prompt_without_boundaries_is_cut_into_chunks(site):
    ours = site(chunk_tokens=96)
    first = ours.ask([DOCUMENTS[1]], marked=False)
    ours.forget_device()
    again = ours.ask([DOCUMENTS[1]], marked=False)
    prompt = len(SYSTEM) + len(DOCUMENTS[1]) + 20
    assert again.cached == {"device": 0, "host": prompt // BLOCK * BLOCK}
    assert again.ids == first.ids


def test_nonsense_for_boundaries_is_counted_and_harmless(site):
    ours = site()
    wanted = ours.ask([DOCUMENTS[0]]).ids
    for nonsense in (["x"], [10**6], [-4, 90], "all", {"a": 1}, [True]):
        assert ours.ask([DOCUMENTS[0]], segments=nonsense).ids == wanted
    assert ours.core.scheduler.connector.get_kv_connector_stats().data["malformed_requests"] == 6


def test_salts_do_not_share(site):
    ours = site()
    ours.ask([DOCUMENTS[0]], cache_salt="mine")
    ours.forget_device()
    assert ours.ask([DOCUMENTS[0]], cache_salt="yours").cached == {"device": 0}
    ours.forget_device()
    assert ours.ask([DOCUMENTS[0]], cache_salt="mine").cached["host"] > 0


def test_a_chunked_prefill_is_cached_piece_by_piece(site):
    ours = site()
    ours.core.scheduler.max_num_scheduled_tokens = 100
    documents = [DOCUMENTS[1], DOCUMENTS[4]]
    first = ours.ask(documents)
    ours.forget_device()
    again = ours.ask(documents)
    assert again.ids == first.ids
    assert again.cached["host"] == (len(SYSTEM) + 333 + 290) // BLOCK * BLOCK
