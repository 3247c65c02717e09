"""What a secret looks like: for each kind a few literal anchors, and a pattern that is tried only where one stands.

A plain substring search finds the anchors at the speed of memory; the patterns are anchored, bounded or possessive,
so no text makes them slow. The secret is the group `v`, or the whole match where there is no such group.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Final, NamedTuple


class Rule(NamedTuple):
    """One kind of secret. `anchors` are searched in the text, or in its lower-case form if `folded`."""

    name: str
    anchors: tuple[str, ...]
    pattern: re.Pattern[str]
    folded: bool = False
    back: int = 0  # characters between the begin of the pattern and its anchor
    check: Callable[[str], bool] | None = None  # a last look at what was found


def _rule(
    name: str,
    anchors: str,
    pattern: str,
    *,
    folded: bool = False,
    bounded: bool = True,
    back: int = 0,
    check: Callable[[str], bool] | None = None,
) -> Rule:
    """Anchors are separated by blanks. A bounded pattern doesn't begin inside a word, nor end inside one."""
    source = rf"(?<![A-Za-z0-9_])(?:{pattern})(?![A-Za-z0-9_])" if bounded else pattern
    flags = re.ASCII | (re.IGNORECASE if folded else 0)
    return Rule(name, tuple(anchors.split()), re.compile(source, flags), folded, back, check)


def _holds_a_colon(value: str) -> bool:
    """Whether this is base64 of `user:password`, and not a word that follows "basic"."""
    try:
        return b":" in base64.b64decode(value + "=" * (-len(value) % 4))
    except (binascii.Error, ValueError):
        return False


WORD: Final = r"[A-Za-z0-9_-]"

TOKENS: Final = (
    _rule("aws access key", "AKIA ASIA ABIA ACCA", r"A(?:KI|SI|BI|CC)A[A-Z0-9]{16}"),
    _rule("github token", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[opusr]_[A-Za-z0-9]{30,255}"),
    _rule("github fine-grained token", "github_pat_", r"github_pat_[A-Za-z0-9_]{22,255}"),
    _rule(
        "gitlab token",
        "glpat- gldt- glrt- glrtr- glcbt- glptt- glft- glimt- glagent- gloas- glsoat- glffct-",
        rf"gl(?:pat|dt|rtr?|cbt|ptt|ft|imt|agent|oas|soat|ffct)-{WORD}{{20,255}}(?:\.{WORD}{{1,64}}){{0,3}}",
    ),
    _rule("gitlab registration token", "GR1348941", rf"GR1348941{WORD}{{20,64}}"),
    _rule("slack token", "xox xapp-", r"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,512}"),
    _rule(
        "slack webhook",
        "hooks.slack.com/",
        r"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<v>[A-Za-z0-9/_-]{20,256})",
    ),
    _rule(
        "discord webhook", "/api/webhooks/", r"/api/webhooks/[0-9]{10,25}/(?P<v>[A-Za-z0-9_-]{40,128})", bounded=False
    ),
    _rule("stripe key", "sk_live_ sk_test_ rk_live_ rk_test_", r"[rs]k_(?:live|test)_[A-Za-z0-9]{10,255}"),
    _rule("signing secret of a webhook", "whsec_", r"whsec_[A-Za-z0-9+/]{16,255}={0,2}", bounded=False),
    _rule("google api key", "AIza", rf"AIza{WORD}{{35}}"),
    _rule("google oauth token", "ya29.", r"ya29\.[A-Za-z0-9_.-]{20,2048}"),
    _rule("google client secret", "GOCSPX-", rf"GOCSPX-{WORD}{{20,64}}"),
    _rule("json web token", "eyJ", rf"eyJ{WORD}{{5,8192}}\.eyJ{WORD}{{2,65536}}(?:\.{WORD}{{0,8192}})?"),
    _rule("json web encryption", "eyJ", rf"eyJ{WORD}{{5,8192}}\.{WORD}{{0,8192}}(?:\.{WORD}{{10,65536}}){{3}}"),
    _rule("npm token", "npm_", r"npm_[A-Za-z0-9]{30,64}"),
    _rule("pypi token", "pypi-AgE", rf"pypi-AgE{WORD}{{50,1024}}"),
    _rule("rubygems key", "rubygems_", r"rubygems_[a-f0-9]{40,64}"),
    _rule("docker token", "dckr_pat_ dckr_oat_", rf"dckr_[po]at_{WORD}{{20,64}}"),
    _rule("hugging face token", "hf_", r"hf_[A-Za-z]{30,64}"),
    _rule(
        "openai or anthropic key", "sk-", rf"sk-(?:(?:proj|svcacct|admin|ant|or)-{WORD}{{20,256}}|[A-Za-z0-9]{{32,64}})"
    ),
    _rule("sendgrid key", "SG.", rf"SG\.{WORD}{{16,32}}\.{WORD}{{32,64}}"),
    _rule("twilio key", "SK", r"SK[0-9a-f]{32}"),
    _rule("mailgun key", "key-", r"key-[0-9a-f]{32}"),
    _rule("mailchimp key", "-us", r"[0-9a-f]{32}-us[0-9]{1,2}", back=32),
    _rule("telegram token", ":AA", rf"(?<=[0-9]{{8}}):(?P<v>AA{WORD}{{32,34}})(?!{WORD})", bounded=False),
    _rule("digitalocean token", "dop_v1_ doo_v1_ dor_v1_", r"do[opr]_v1_[a-f0-9]{64}"),
    _rule("shopify token", "shpat_ shpca_ shppa_ shpss_", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    _rule("square token", "sq0atp- sq0csp-", rf"sq0(?:atp|csp)-{WORD}{{22,64}}"),
    _rule("databricks token", "dapi", r"dapi[a-f0-9]{32}(?:-[0-9])?"),
    _rule("vault token", "hvs. hvb. hvr.", rf"hv[sbr]\.{WORD}{{24,512}}"),
    _rule("terraform token", ".atlasv1.", rf"[A-Za-z0-9]{{14}}\.atlasv1\.{WORD}{{40,128}}", back=14),
    _rule("grafana token", "glsa_ glc_", r"gl(?:sa|c)_[A-Za-z0-9+/_=]{32,512}", bounded=False),
    _rule("new relic key", "NRAK- NRJS- NRII-", rf"NR(?:AK|JS|II)-{WORD}{{19,64}}"),
    _rule("doppler token", "dp.pt. dp.st. dp.ct. dp.sa.", r"dp\.(?:pt|st|ct|sa)\.[A-Za-z0-9._-]{40,128}"),
    _rule("linear key", "lin_api_ lin_oauth_", r"lin_(?:api|oauth)_[A-Za-z0-9]{32,64}"),
    _rule("notion token", "ntn_", r"ntn_[A-Za-z0-9]{40,64}"),
    _rule("atlassian token", "ATATT3 ATCTT3 ATBB", r"AT(?:ATT3|CTT3|BB)[A-Za-z0-9_=-]{24,256}"),
    _rule("planetscale secret", "pscale_", r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.-]{30,64}"),
    _rule("supabase, netlify or figma token", "sbp_ nfp_ figd_", rf"(?:sbp|nfp|figd)_{WORD}{{32,64}}"),
    _rule("postman key", "PMAK-", r"PMAK-[a-f0-9]{24}-[a-f0-9]{34}"),
    _rule("pulumi token", "pul-", r"pul-[a-f0-9]{40}"),
    _rule("age key", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
    _rule("headway key", "hw_", rf"hw_[A-Za-z0-9]{{4,32}}_(?P<v>{WORD}{{16,128}})"),
)

PLACES: Final = (
    _rule(
        "private key in PEM", "-----BEGIN",
        r"-----BEGIN[ ](?:[A-Z0-9 ]{0,40})PRIVATE[ ]KEY(?:[ ]BLOCK)?-----(?P<v>(?:[^-]|-(?!----)){0,16384}+)",
        bounded=False,
    ),
    _rule("password in a URL", "://", r"://[^\s/?#@:\"'<>\[\]]{0,256}+:(?P<v>[^\s/\"'<>]{1,512})@", bounded=False),
    _rule(
        "authorization header", "authorization",
        r"authorization\\?[\"']?\s{0,3}[:=,]\s{0,3}(?:b?\\?[\"'\[(]){0,3}"
        r"(?:(?:bearer|basic|digest|token|apikey|api-key|negotiate|ntlm|aws4-hmac-sha256|signature|oauth)[ \t]{1,4})?"
        r"(?P<v>[^\s\"'\\,\])}]{4,8192}+(?:,[ ]?[A-Za-z]{1,32}=[^\s,]{1,2048}+){0,12})",
        folded=True, bounded=False,
    ),
    _rule("bearer token", "bearer",
          r"bearer[ \t]{1,4}(?P<v>(?=[a-z._~+/-]{0,64}+[0-9=]|[^\s]{24})[a-z0-9._~+/=-]{12,8192})",
          folded=True, bounded=False),
    _rule("basic credentials", "basic", r"(?<![a-z0-9_])basic[ \t]{1,4}(?P<v>[a-z0-9+/]{8,1024}={0,2})(?![a-z0-9+/=])",
          folded=True, bounded=False, check=_holds_a_colon),
    _rule(
        "cookie", "cookie",
        r"(?:set-)?cookie\\?[\"']?[ \t]{0,3}:[ \t]{0,3}\\?[\"']?[A-Za-z0-9_.%~-]{1,128}=(?P<v>[^\r\n\"'\\]{1,4096}+)",
        folded=True, bounded=False,
    ),
    _rule("signature in a URL", "signature= credential= sig= security-token=",
          r"(?:signature|credential|sig|security-token)=(?P<v>[A-Za-z0-9%/+_.~-]{16,2048}={0,2})",
          folded=True, bounded=False),
    _rule("azure key", "accountkey= sharedaccesskey= sharedsecret=",
          r"(?:accountkey|sharedaccesskey|sharedsecret)=(?P<v>[A-Za-z0-9+/]{20,256}={0,2})",
          folded=True, bounded=False),
    _rule(
        "option of a command", "--pass --token --secret --api-key --apikey --auth-token --access-token --client-secret",
        r"--(?:password|passwd|passphrase|pass|token|secret|api-?key|auth-token|access-token|client-secret|secret-key)"
        r"(?:=|[ \t]{1,4})(?P<v>\"[^\"\n]{1,1024}\"|'[^'\n]{1,1024}'|(?!-)[^\s\"']{3,1024}+)",
        folded=True, bounded=False,
    ),
    _rule(
        "element of XML", "password> passwd> secret> token> apikey>",
        r"(?:password|passwd|secret|token|apikey)>(?P<v>[^<>\s]{3,1024}+)</", folded=True, bounded=False,
    ),
)  # fmt: skip

STRONG: Final = ("password", "passwd", "passphrase", "pwd", "secret_key", "secretkey")
WEAK: Final = (
    "pass", "secret", "token", "api_key", "api-key", "apikey", "api key", "access_key", "access-key", "accesskey",
    "auth_key", "private_key", "private-key", "privatekey", "credential", "credentials", "encryption_key",
    "signing_key",
)  # fmt: skip
"""Names whose value is a secret. After a strong one any value is; after a weak one and a colon, one that looks so."""

_NAMES: Final = "|".join(sorted((*STRONG, *WEAK), key=len, reverse=True))
PAIR_ANCHORS: Final = tuple(w for w in (*STRONG, *WEAK) if not any(o != w and o in w for o in (*STRONG, *WEAK)))
PAIR: Final = re.compile(
    rf"(?P<name>{_NAMES})(?P<close>\\?[\"'])?\]?[ \t]{{0,3}}(?P<sign>=>|:=|==?|:|%3d)[ \t]{{0,3}}"
    r"(?:[brfu]{0,2}(?P<open>\\?[\"'])(?P<quoted>(?:(?!(?P=open))(?:\\.|[^\\\n])){1,64}+)"
    r"|(?P<plain>[^\s\"'\\,;&]{1,64}+))",
    re.IGNORECASE | re.ASCII,
)
"""A name, a sign and the beginning of a value; `REST` goes on from there, by the quote that opened it."""

REST: Final = {
    quote: re.compile(rf"(?:(?!{re.escape(quote)})(?:\\.|[^\\\n]))*+") for quote in ('"', "'", '\\"', "\\'")
} | {None: re.compile(r"[^\s\"'\\,;&]*+")}
KEYS: Final = frozenset(
    (*STRONG, *(w for w in WEAK if "-" not in w and " " not in w), "authorization", "cookie", "session_id", "passcode")
)
"""Members of an object whose text is a secret: as a whole name or after an underscore, in snake case."""

HARMLESS: Final = re.compile(
    r"true|false|null|none|nil|undefined|yes|no|on|off|str|int|bytes|string|bool|optional|any|required|missing|empty"
    r"|invalid|expired|\*+|x{3,}|\.{3}|…|\$\S*|%[(sdr]\S*|%s|<\S*|\{\S*|\[redacted.*",
    re.IGNORECASE | re.ASCII,
)
"""Values that stand for a value: words of a language, placeholders, variables."""
CALL: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*[(\[](?:.*[)\]])?", re.ASCII)
"""A call or a look-up in a line of code, as a stack shows it."""
