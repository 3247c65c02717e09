"""Secrets are taken out, and nothing else is."""

from __future__ import annotations

import base64
import random
import string
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from headway.redact import MARK, redact, redact_data
from headway.redact_rules import PLACES, TOKENS

LETTERS = string.ascii_letters
DIGITS = string.digits
UPPER = string.ascii_uppercase
ALNUM = LETTERS + DIGITS
HEX = "0123456789abcdef"
URLSAFE = ALNUM + "-_"


def draw(rng: random.Random, alphabet: str, low: int, high: int | None = None) -> str:
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(low, high or low)))


def word(rng: random.Random, low: int = 8, high: int = 24) -> str:
    """A password as people and tools make them."""
    return draw(rng, LETTERS, 1) + draw(rng, ALNUM + "!#$%*+-.^_~", low - 2, high - 2) + draw(rng, DIGITS, 1)


def jwt(rng: random.Random) -> str:
    return f"eyJ{draw(rng, URLSAFE, 20, 60)}.eyJ{draw(rng, URLSAFE, 20, 200)}.{draw(rng, URLSAFE, 43)}"


def pem(rng: random.Random) -> str:
    return "\n".join(draw(rng, ALNUM + "+/", 64) for _ in range(rng.randint(2, 20)))


# Each gives the text around a secret and the secret; what is around must stay.
KINDS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "url": lambda r: (f"postgresql://app:{(s := draw(r, ALNUM + '!$*-._~', 6, 30))}@db.example.com:5432/shop", s),
    "url without user": lambda r: (f"redis://:{(s := draw(r, ALNUM, 6, 30))}@cache:6379/0", s),
    "bearer header": lambda r: (f"Authorization: Bearer {(s := draw(r, URLSAFE + '.', 20, 80))}", s),
    "basic header": lambda r: (
        f"authorization: Basic {(s := base64.b64encode(f'{word(r)}:{word(r)}'.encode()).decode())}", s),
    "basic alone": lambda r: (f"curl with Basic {(s := base64.b64encode(f'u:{word(r)}'.encode()).decode())}", s),
    "header in a dict": lambda r: (f"{{'Authorization': 'token {(s := draw(r, ALNUM, 20, 40))}'}}", s),
    "proxy header": lambda r: (f"Proxy-Authorization: Digest {(s := draw(r, ALNUM, 30))}", s),
    "cookie": lambda r: (f"Cookie: session={(s := draw(r, URLSAFE, 20, 60))}", s),
    "x-api-key": lambda r: (f"X-Api-Key: {(s := draw(r, ALNUM, 20, 40) + '1a')}", s),
    "bearer alone": lambda r: (f"sent bearer {(s := draw(r, URLSAFE, 30, 80) + '7')} to the gateway", s),
    "aws id": lambda r: (f"key {(s := r.choice(['AKIA', 'ASIA']) + draw(r, UPPER + DIGITS, 16))} used", s),
    "aws secret": lambda r: (f"aws_secret_access_key = {(s := draw(r, ALNUM + '+/', 40))}", s),
    "aws session": lambda r: (f"AWS_SESSION_TOKEN={(s := draw(r, ALNUM + '+/', 100, 300))}", s),
    "presigned": lambda r: (f"https://b.example.com/k?X-Amz-Signature={(s := draw(r, HEX, 64))}&x=1", s),
    "github": lambda r: (f"clone with {(s := r.choice(['ghp_', 'gho_', 'ghs_', 'ghu_']) + draw(r, ALNUM, 36))}", s),
    "github fine": lambda r: (f"using {(s := 'github_pat_' + draw(r, ALNUM, 22) + '_' + draw(r, ALNUM, 59))}", s),
    "gitlab": lambda r: (f"push by {(s := r.choice(['glpat-', 'gldt-', 'glrt-']) + draw(r, URLSAFE, 20))}", s),
    "slack": lambda r: (f"posting with {(s := 'xoxb-' + draw(r, DIGITS, 12) + '-' + draw(r, ALNUM, 24))}", s),
    "slack hook": lambda r: (
        f"https://hooks.slack.com/services/{(s := 'T' + draw(r, ALNUM, 8) + '/B' + draw(r, ALNUM, 33))}", s),
    "discord hook": lambda r: (
        f"https://discord.com/api/webhooks/{draw(r, DIGITS, 18)}/{(s := draw(r, URLSAFE, 68))}", s),
    "stripe": lambda r: (f"charge by {(s := r.choice(['sk_live_', 'sk_test_', 'rk_live_']) + draw(r, ALNUM, 24))}", s),
    "webhook": lambda r: (f"verified with {(s := 'whsec_' + draw(r, ALNUM, 32))}", s),
    "google": lambda r: (f"maps key {(s := 'AIza' + draw(r, URLSAFE, 35))}", s),
    "google oauth": lambda r: (f"token {(s := 'ya29.' + draw(r, URLSAFE, 60, 150))}", s),
    "google client": lambda r: (f"client {(s := 'GOCSPX-' + draw(r, URLSAFE, 28))}", s),
    "jwt": lambda r: (f"claims of {(s := jwt(r))} are stale", s),
    "pem": lambda r: (f"-----BEGIN RSA PRIVATE KEY-----\n{(s := pem(r))}\n-----END RSA PRIVATE KEY-----\nloaded", s),
    "pem escaped": lambda r: (
        f'"-----BEGIN PRIVATE KEY-----\\n{(s := repr(pem(r))[1:-1])}\\n-----END PRIVATE KEY-----\\n"', s),
    "npm": lambda r: (f"publish with {(s := 'npm_' + draw(r, ALNUM, 36))}", s),
    "pypi": lambda r: (f"upload with {(s := 'pypi-AgEIcHlwaS5vcmc' + draw(r, URLSAFE, 80))}", s),
    "docker": lambda r: (f"login with {(s := 'dckr_pat_' + draw(r, URLSAFE, 27))}", s),
    "hugging face": lambda r: (f"download with {(s := 'hf_' + draw(r, LETTERS, 34))}", s),
    "model vendor": lambda r: (f"ask with {(s := r.choice(['sk-proj-', 'sk-ant-']) + draw(r, URLSAFE, 60))}", s),
    "sendgrid": lambda r: (f"mail by {(s := 'SG.' + draw(r, URLSAFE, 22) + '.' + draw(r, URLSAFE, 43))}", s),
    "twilio": lambda r: (f"call by {(s := 'SK' + draw(r, HEX, 32))}", s),
    "mailgun": lambda r: (f"mail by {(s := 'key-' + draw(r, HEX, 32))}", s),
    "mailchimp": lambda r: (f"list by {(s := draw(r, HEX, 32) + '-us' + str(r.randint(1, 20)))}", s),
    "telegram": lambda r: (f"bot {draw(r, DIGITS, 9)}:{(s := 'AA' + draw(r, URLSAFE, 33))}", s),
    "digitalocean": lambda r: (f"droplet by {(s := 'dop_v1_' + draw(r, HEX, 64))}", s),
    "shopify": lambda r: (f"shop by {(s := 'shpat_' + draw(r, HEX, 32))}", s),
    "square": lambda r: (f"pay by {(s := 'sq0atp-' + draw(r, URLSAFE, 22))}", s),
    "databricks": lambda r: (f"notebook by {(s := 'dapi' + draw(r, HEX, 32))}", s),
    "vault": lambda r: (f"unseal by {(s := 'hvs.' + draw(r, URLSAFE, 90))}", s),
    "terraform": lambda r: (f"apply by {(s := draw(r, ALNUM, 14) + '.atlasv1.' + draw(r, URLSAFE, 67))}", s),
    "grafana": lambda r: (f"panel by {(s := 'glsa_' + draw(r, ALNUM, 32) + '_' + draw(r, HEX, 8))}", s),
    "new relic": lambda r: (f"report by {(s := 'NRAK-' + draw(r, ALNUM, 27))}", s),
    "doppler": lambda r: (f"fetch by {(s := 'dp.pt.' + draw(r, ALNUM, 43))}", s),
    "linear": lambda r: (f"issue by {(s := 'lin_api_' + draw(r, ALNUM, 40))}", s),
    "notion": lambda r: (f"page by {(s := 'ntn_' + draw(r, ALNUM, 46))}", s),
    "atlassian": lambda r: (f"wiki by {(s := 'ATATT3xFfGF0' + draw(r, URLSAFE, 160))}", s),
    "planetscale": lambda r: (f"branch by {(s := 'pscale_tkn_' + draw(r, URLSAFE, 43))}", s),
    "figma": lambda r: (f"file by {(s := 'figd_' + draw(r, URLSAFE, 40))}", s),
    "postman": lambda r: (f"run by {(s := 'PMAK-' + draw(r, HEX, 24) + '-' + draw(r, HEX, 34))}", s),
    "pulumi": lambda r: (f"stack by {(s := 'pul-' + draw(r, HEX, 40))}", s),
    "age": lambda r: (f"sealed by {(s := 'AGE-SECRET-KEY-1' + draw(r, UPPER + DIGITS, 58))}", s),
    "headway": lambda r: (f"reporting with hw_{draw(r, ALNUM, 8)}_{(s := draw(r, URLSAFE, 43))}", s),
    "azure": lambda r: (f"Protocol=https;AccountName=a;AccountKey={(s := draw(r, ALNUM + '+/', 86))}==;", s),
    "password=": lambda r: (f"connecting with host=db password={(s := word(r))} dbname=shop", s),
    "password:": lambda r: (f"user: app\npassword: {(s := word(r))}\nport: 5432", s),
    "quoted": lambda r: (f"connect(user='app', password='{(s := word(r) + ' ' + word(r))}', port=5432)", s),
    "variable": lambda r: (f"export {r.choice(['DB', 'PG', 'SMTP'])}_PASSWORD={(s := word(r))}", s),
    "token=": lambda r: (f"GET /hook?token={(s := draw(r, ALNUM, 12, 40))}&page=2", s),
    "api_key": lambda r: (f"{r.choice(['api_key', 'apikey', 'API-KEY'])}={(s := draw(r, ALNUM, 12, 40))}", s),
    "secret": lambda r: (f"client_secret={(s := word(r))}", s),
    "json": lambda r: (f'{{"user": "app", "password": "{(s := word(r))}", "retries": 3}}', s),
    "json escaped": lambda r: (f'{{\\"access_token\\":\\"{(s := draw(r, URLSAFE, 30))}\\",\\"n\\":1}}', s),
    "json camel": lambda r: (f'{{"clientSecret":"{(s := word(r))}","n":1}}', s),
    "repr": lambda r: (f"{{'secret_key': '{(s := word(r))}', 'n': 1}}", s),
    "option": lambda r: (f"mysqldump --password {(s := word(r))} --all", s),
    "option=": lambda r: (f"deploy --token={(s := word(r))} --wait", s),
    "xml": lambda r: (f"<user>app</user><password>{(s := draw(r, ALNUM, 12))}</password>", s),
    "chinese": lambda r: (f"正在连接数据库，password={(s := word(r))}，重试第 3 次", s),
}  # fmt: skip


def secrets(seed: int, each: int) -> Iterator[tuple[str, str, str]]:
    rng = random.Random(seed)
    for kind, make in KINDS.items():
        for _ in range(each):
            text, secret = make(rng)
            yield kind, text, secret


def plain_lines(seed: int, count: int) -> Iterator[str]:
    """Lines as programs write them, with ids, numbers, paths, hashes, and the words that stand near secrets."""
    rng = random.Random(seed)
    words = (
        "the table orders was copied to shop in batch of rows with worker and cache after retry because disk token"
        " password secret key basic bearer session cookie author passed compass tokens keys"
    ).split()
    made: list[Callable[[], str]] = [
        lambda: " ".join(rng.choice(words) for _ in range(rng.randint(4, 14))),
        lambda: f"processed {rng.randrange(10**6)} of {rng.randrange(10**7)} rows in {rng.random() * 99:.2f} s",
        lambda: f"job import:{rng.randrange(10**9)} step fetch attempt {rng.randrange(9)} seq={rng.randrange(999)}",
        lambda: f"commit {draw(rng, HEX, 40)} pushed to refs/heads/main",
        lambda: (
            f"id={draw(rng, HEX, 8)}-{draw(rng, HEX, 4)}-{draw(rng, HEX, 4)}-{draw(rng, HEX, 4)}-{draw(rng, HEX, 12)}"
        ),
        lambda: f"sha256:{draw(rng, HEX, 64)} layer pulled",
        lambda: f"GET https://shop.example.com:8443/v1/orders/{rng.randrange(10**6)}?page={rng.randrange(99)} 200",
        lambda: f'  File "/srv/app/{draw(rng, string.ascii_lowercase, 6)}.py", line {rng.randrange(999)}, in run',
        lambda: f"{{'rows': {rng.randrange(999)}, 'max_tokens': {rng.randrange(9999)}, 'ok': True}}",
        lambda: f"tokens={rng.randrange(9999)} tokens_per_second={rng.random() * 99:.1f} total_tokens: 12",
        lambda: "unexpected token: expected a closing bracket",
        lambda: "password: must be at least eight characters long",
        lambda: "Basic authentication is required, bearer tokens are accepted too",
        lambda: f"password=None token=null secret=${{SECRET}} api_key=<hidden> pwd=/home/{draw(rng, HEX, 4)}",
        lambda: "    password = get_password(user)",
        lambda: f"正在推送代码… {rng.randrange(100)}%（第 {rng.randrange(999)} 个对象）",
        lambda: f"cursor 0001_{draw(rng, DIGITS, 16)}_{draw(rng, HEX, 8)} at position {rng.randrange(10**9)}",
        lambda: "Writing objects:  42% (420/1000), 1.20 MiB | 2.40 MiB/s",
        lambda: f"user{rng.randrange(99)}@example.com asked for git@git.example.com:group/project.git",
    ]
    for _ in range(count):
        yield rng.choice(made)()


def test_there_are_at_least_forty_kinds_of_secrets() -> None:
    assert len(TOKENS) + len(PLACES) >= 40


def test_of_two_thousand_secrets_at_least_99_percent_are_taken_out_whole() -> None:
    missed = [
        (kind, text) for kind, text, secret in secrets(7, 30) if secret in redact(text) or MARK not in redact(text)
    ]
    total = 30 * len(KINDS)
    assert total >= 2_000
    assert len(missed) <= total // 100, missed[:10]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_around_a_secret_stays(kind: str) -> None:
    rng = random.Random(3)
    text, secret = KINDS[kind](rng)
    before, after = text.split(secret)
    shown = redact(text)
    assert secret not in shown
    assert shown.replace(MARK, "").startswith(before.rstrip("'\"= ")[:20])
    assert shown.endswith(after[-4:]) or kind in ("cookie", "azure")


def test_redacting_twice_is_redacting_once() -> None:
    for _, text, _ in secrets(11, 5):
        assert redact(redact(text)) == redact(text)


def test_of_five_thousand_plain_lines_at_most_1_percent_change() -> None:
    changed = [line for line in plain_lines(5, 6_000) if redact(line) != line]
    assert len(changed) <= 60, changed[:10]


def test_data_keeps_its_shape_its_numbers_and_the_names_of_steps() -> None:
    data = {
        "message": "token=abc123def",
        "metadata": {"password": 5, "apiKey": "k-1", "rows": 7, "deep": [{"DB_PASSWORD": "x", "n": None}]},
        "steps": [{"step": "rotate token=abc123def", "parent": "password=x", "label": "token=abc123def"}],
        "parent": "password=x",
    }
    assert redact_data(data) == {
        "message": f"token={MARK}",
        "metadata": {"password": 5, "apiKey": MARK, "rows": 7, "deep": [{"DB_PASSWORD": MARK, "n": None}]},
        "steps": [{"step": "rotate token=abc123def", "parent": "password=x", "label": f"token={MARK}"}],
        "parent": "password=x",
    }


def test_data_without_secrets_is_the_same_object() -> None:
    data = {"percent": 42.5, "message": "正在推送代码…", "metadata": {"rows": [1, 2]}}
    assert redact_data(data) is data


def test_a_letter_that_grows_when_it_is_lowered_moves_nothing() -> None:
    assert redact("İİİ password=hunter2 İ") == f"İİİ password={MARK} İ"


@pytest.mark.parametrize(
    "piece",
    ["password=", 'password="', "://a:", "eyJ", "-----BEGIN PRIVATE KEY-----", "cookie: a=", "xoxb-", "bearer "],
)
def test_twice_the_text_is_not_four_times_the_work(piece: str) -> None:
    """Counted in a subprocess with a limit of processor time that only quadratic work reaches."""
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (20, 20))\n"
        "from headway.redact import redact\n"
        "redact(sys.argv[1] * (4_000_000 // len(sys.argv[1])))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, piece], check=False).returncode == 0
