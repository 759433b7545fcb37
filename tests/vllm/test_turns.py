"""Inside vLLM: which job goes next, which gives memory up, what is counted, and that every job ends."""

import queue

import pytest

from ragcache.engine.protocol import Finished, Job, Prefilled, Sampling, Started, Token
from ragcache.engine.vllm.front.ledger import VllmLedger
from ragcache.errors import ConfigError
from ragcache.reuse.plan import Computed
from tests.vllm.live import empty, idle, started, until
from tests.vllm.site import BLOCK, SYSTEM, document

QUESTION = list(range(700, 720))
POOL = 15  # blocks of vLLM's that hold KV


@pytest.fixture(scope="module")
def engine():
    """With room for 480 tokens: two prompts of 200 fit, their answers do not."""
    options = f'{{"enforce_eager": true, "num_gpu_blocks_override": {POOL + 1}}}'
    made = started(vllm_options=options, max_batch=3, host_cache=0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def ledger(engine):
    return VllmLedger(engine)


@pytest.fixture(autouse=True)
def emptied(ledger):
    """Each test begins with nothing in use and nothing cached, and leaves nothing in use."""
    empty(ledger)
    yield
    until(lambda: idle(ledger))


class Submitted:
    """A job over one made-up document, and its events."""

    def __init__(
        self, engine, which, tokens=120, max_tokens=1, guess=False, log=None, so_far=(), namespace="default", **sampling
    ):
        self.seen = []
        self._new = queue.SimpleQueue()
        self._name, self._log = which, log
        segments = [SYSTEM, document(which, tokens)]
        plan, targets = tuple(map(Computed, segments)), [engine.allocate(len(ids)) for ids in segments]
        question, memory = [*QUESTION, *so_far], engine.allocate(64)
        job = Job(plan, targets, question, memory, max_tokens, Sampling(**sampling), len(so_far), guess, namespace)
        self.cancel = engine.submit(job, self._deliver)

    def _deliver(self, event):
        if self._log is not None and isinstance(event, Prefilled):
            self._log.append(self._name)
        self._new.put(event)

    def until(self, kind):
        while not any(isinstance(event, kind) for event in self.seen):
            self.seen.append(self._new.get(timeout=60))
        return self.seen[-1]

    @property
    def ids(self):
        self.until(Finished)
        return [event.id for event in self.seen if isinstance(event, Token)]


def test_a_guess_waits_for_jobs_that_are_none(engine):
    order = []
    ahead = Submitted(engine, 1, tokens=200, log=order)
    ahead.until(Started)
    jobs = [Submitted(engine, 2, guess=True, log=order), Submitted(engine, 3, log=order)]
    for job in (ahead, *jobs):
        job.until(Finished)
    assert order == [1, 3, 2]


def test_a_guess_is_passed_by_as_many_as_run_at_a_time_and_no_more(engine):
    order = []
    ahead = Submitted(engine, 1, tokens=200, log=order)
    ahead.until(Started)
    guess = Submitted(engine, 2, tokens=40, guess=True, log=order)
    others = [Submitted(engine, 3 + n, tokens=40, log=order) for n in range(5)]
    for job in (ahead, guess, *others):
        job.until(Finished)
    assert order == [1, 3, 4, 5, 2, 6, 7]


def test_the_last_job_gives_its_blocks_up_and_goes_on_as_it_would_have(engine):
    """Answers that outgrow the pool: drawn tokens are those that each gets alone."""
    sampling = [{"temperature": 0.9, "seed": seed, "top_p": 0.95} for seed in (5, 6)]
    alone = [Submitted(engine, 20 + n, 170, 60, **sampling[n]).ids for n in range(2)]
    before = engine.stats().preemptions
    together = [Submitted(engine, 20 + n, 170, 60, **sampling[n]) for n in range(2)]
    assert [job.ids for job in together] == alone
    assert engine.stats().preemptions > before
    assert all(len(ids) > 30 for ids in alone)


def test_draws_do_not_depend_on_how_an_answer_is_split(engine):
    sampling = {"temperature": 1.2, "seed": 7, "top_p": 0.9}
    whole = Submitted(engine, 25, 150, 12, **sampling).ids  # its prompt takes four steps
    assert Submitted(engine, 25, 150, 7, so_far=whole[:5], **sampling).ids == whole[5:]
    assert Submitted(engine, 25, 150, 12, **sampling | {"seed": 8}).ids != whole


def test_jobs_of_two_namespaces_share_no_kv(engine):
    def computed(namespace):
        return Submitted(engine, 40, tokens=40, namespace=namespace).until(Finished).computed_tokens

    whole = len(SYSTEM) + 40 + len(QUESTION)
    assert [computed(namespace) for namespace in ("default", "red", "blue")] == [whole] * 3
    assert computed("red") == computed("default") == whole - (whole - 1) // BLOCK * BLOCK


def test_steps_and_tokens_are_those_of_vllm(engine):
    before = engine.stats()
    job = Submitted(engine, 30, tokens=136, max_tokens=5)  # 216 of prompt, in steps of 64
    ids = job.ids
    until(lambda: not engine.stats().running)
    after = engine.stats()
    prompt = len(SYSTEM) + 136 + len(QUESTION)
    assert after.prefill_tokens - before.prefill_tokens == prompt == job.seen[-1].computed_tokens
    assert len(ids) - 1 <= after.decode_tokens - before.decode_tokens <= len(ids)
    assert 4 + len(ids) - 1 <= after.steps - before.steps <= 4 + len(ids)
    assert after.step_seconds > before.step_seconds
    again = Submitted(engine, 30, tokens=136, max_tokens=1)
    again.until(Finished)
    assert engine.stats().prefill_tokens - after.prefill_tokens == prompt - prompt // BLOCK * BLOCK


def test_a_job_cancelled_at_once_ends(engine):
    for _ in range(20):
        job = Submitted(engine, 40, tokens=150, max_tokens=30)
        job.cancel()
        assert job.until(Finished).reason == "cancelled"
    until(lambda: not engine.stats().running)
    assert Submitted(engine, 40, tokens=150, max_tokens=4).until(Finished).reason in ("length", "stop")


def test_a_cancelled_job_says_what_it_has_computed(engine):
    before = engine.stats().prefill_tokens
    job = Submitted(engine, 50, tokens=300, max_tokens=4)
    until(lambda: engine.stats().prefill_tokens > before)
    job.cancel()
    ended = job.until(Finished)
    assert ended.reason == "cancelled"
    computed = engine.stats().prefill_tokens - before
    assert ended.computed_tokens == computed < len(SYSTEM) + 300
    assert ended.kept_tokens == len(SYSTEM) // BLOCK * BLOCK


def test_speculative_decoding_is_refused_on_a_cpu():
    with pytest.raises(ConfigError, match="speculative_config is for GPUs"):
        started(vllm_options='{"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}')


def test_a_build_without_its_device_is_refused(monkeypatch):
    from vllm.platforms import current_platform

    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: False)
    monkeypatch.setattr(type(current_platform), "is_cuda_alike", lambda _: False)
    with pytest.raises(ConfigError, match=r"finds no device to run on.*make setup-vllm"):
        started()
